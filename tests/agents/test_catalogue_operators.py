"""Operators: what they change, what they refuse, and how a program's parts are recognised."""

import ast
import difflib
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightlab.agents.catalogue import (
    CATALOGUE_VERSION,
    EDITED,
    Operator,
    current,
    dials,
    neighbours,
    operator,
    operators,
    parts,
    tree_hash,
)
from nightlab.agents.catalogue.dials import LADDERS
from nightlab.agents.catalogue.source import PARTS, variants
from nightlab.evals.tasks.byte_lm import program as baseline_module
from nightlab.vocabulary import Program

TEXT = Path(baseline_module.__file__).read_text()
BASELINE = Program({"program.py": TEXT})
LINES = TEXT.splitlines(keepends=True)
APPLICABLE = [each for each in operators() if each.applicable(BASELINE)]
VARIANTS = [each for each in APPLICABLE if each.part in PARTS]


def text(program: Program) -> str:
    return program.files["program.py"]


def span(source: str, names: set[str]) -> set[int]:
    """Line numbers of top-level definitions, with the blank lines around them."""
    return {
        line
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name in names
        for line in range(node.lineno - 2, (node.end_lineno or 0) + 3)
    }


def stray_lines(old: str, new: str, names: set[str]) -> list[str]:
    """Changed lines that do not belong to the named definitions."""
    inside_old, inside_new = span(old, names), span(new, names)
    stray, at_old, at_new = [], 0, 0
    for line in difflib.ndiff(old.splitlines(), new.splitlines()):
        at_old += line[0] in " -"
        at_new += line[0] in " +"
        if (line[0] == "-" and at_old not in inside_old) or (
            line[0] == "+" and at_new not in inside_new
        ):
            stray.append(line)
    return stray


def test_the_baseline_is_recognised_as_every_parts_first_variant() -> None:
    held = current(BASELINE)
    mine = [part for part in parts() if not part.ordered and part.name != "eviction"]
    assert all(held[part.name] == part.variants[0] for part in mine)
    assert {name for name in held if name in LADDERS} == set(dials(BASELINE))


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda each: each.name)
def test_a_variant_is_recognised_is_no_twice_and_goes_back_without_a_trace(
    variant: Operator,
) -> None:
    program = variant.apply(BASELINE)
    assert current(program) == {
        **current(program),
        **current(BASELINE),
        variant.part: variant.variant,
    }
    assert not variant.applicable(program)
    with pytest.raises(ValueError, match="not applicable"):
        variant.apply(program)
    back = operator(variant.part, current(BASELINE)[variant.part])
    assert text(back.apply(program)) == TEXT


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda each: each.name)
def test_only_the_part_changes(variant: Operator) -> None:
    code = variants()[variant.part, variant.variant]
    names = {PARTS[variant.part], *code.companions}
    stray = stray_lines(TEXT, text(variant.apply(BASELINE)), names)
    assert len(stray) <= len(code.fields) + 4, stray


@pytest.mark.parametrize("dial", [each for each in APPLICABLE if each.part in LADDERS], ids=str)
def test_a_dial_changes_one_line(dial: Operator) -> None:
    program = dial.apply(BASELINE)
    changed = [
        line for line in difflib.ndiff(LINES, text(program).splitlines(True)) if line[0] in "+-"
    ]
    assert len(changed) == 2
    assert dials(program) == {**dials(BASELINE), dial.part: pytest.approx(float(dial.variant))}
    assert current(program)[dial.part] == dial.variant


def test_written_programs_are_formatted_and_lint_free(tmp_path: Path) -> None:
    for number, each in enumerate(VARIANTS):
        (tmp_path / f"program_{number}.py").write_text(text(each.apply(BASELINE)))
    options = ["--isolated", "--line-length", "100"]
    for command in (["format", "--diff"], ["check", "--select", "E,F,I", "--ignore", "F401"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--no-cache", *options, str(tmp_path)]
        done = subprocess.run(ruff, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[:3000]


def test_every_value_of_every_part_has_one_operator() -> None:
    names = [each.name for each in operators()]
    assert len(names) == len(set(names)) == sum(len(part.variants) for part in parts())
    assert all(each.hypothesis for each in operators())
    assert all(each.source for each in operators() if each.part in PARTS)
    assert len(CATALOGUE_VERSION) == 12


def test_ladders_rise() -> None:
    for rungs in LADDERS.values():
        values = [float(rung) for rung in rungs]
        assert values == sorted(set(values))


def test_neighbours_move_a_dial_by_one_step() -> None:
    near = {each.variant for each in neighbours(BASELINE) if each.part == "depth"}
    assert near == {"2", "4"}
    between = Program({"program.py": TEXT.replace("batch: int = 32", "batch: int = 24")})
    assert {each.variant for each in neighbours(between) if each.part == "batch"} == {"16", "32"}


def test_dials_that_no_program_could_be_built_with_are_closed() -> None:
    many_heads = operator("heads", "16").apply(BASELINE)
    assert not operator("width", "48").applicable(many_heads)
    long = operator("context", "512").apply(BASELINE)
    assert not operator("batch", "64").applicable(long)


def test_a_variants_own_dial_comes_and_goes_with_it() -> None:
    window = operator("window", "16")
    assert not window.applicable(BASELINE)
    local = operator("scores", "sliding_window").apply(BASELINE)
    assert current(window.apply(local))["window"] == "16"
    top = operator("scores", "top_keys").apply(window.apply(local))
    assert current(top)["window"] == "16"
    assert text(operator("scores", "softmax").apply(top)) == TEXT


def test_a_part_that_a_model_rewrote_is_edited_and_can_be_replaced() -> None:
    own = Program({"program.py": TEXT.replace("F.gelu(", "torch.tanh(")})
    assert current(own)["feed_forward"] == EDITED
    assert text(operator("feed_forward", "gelu").apply(own)) == TEXT


def test_a_renamed_local_or_a_comment_does_not_make_a_part_edited() -> None:
    own = Program(
        {"program.py": TEXT.replace("length = q_", "t = q_").replace("(length, length", "(t, t")}
    )
    assert text(own) != TEXT
    assert current(own)["scores"] == "softmax"


def test_an_import_that_a_program_lacks_is_added() -> None:
    plain = (
        TEXT.replace("import math\n", "").replace("math.pi", "3.14159").replace("math.", "torch.")
    )
    edited = operator("schedule", "square_root_cooldown").apply(Program({"program.py": plain}))
    assert "import math\nfrom dataclasses" in text(edited)


def test_a_name_that_means_something_else_closes_the_operator() -> None:
    own = Program(
        {
            "program.py": TEXT.replace("functional as F", "functional as G").replace("F.", "G.")
            + "\nF = 1\n"
        }
    )
    assert not operator("norm", "rms_norm").applicable(own)


def test_a_part_is_found_in_whichever_file_holds_it() -> None:
    split = Program({"program.py": "from parts import Norm\n", "parts.py": TEXT})
    edited = operator("norm", "rms_norm").apply(split)
    assert edited.files["program.py"] == split.files["program.py"]
    assert current(edited)["norm"] == "rms_norm"


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, len(LINES) - 1), max_size=40), st.sampled_from(operators()))
def test_no_damage_to_a_program_makes_an_operator_raise(holes: list[int], each: Operator) -> None:
    damaged = Program(
        {"program.py": "".join(line for at, line in enumerate(LINES) if at not in holes)}
    )
    current(damaged)
    dials(damaged)
    if each.applicable(damaged):
        edited = each.apply(damaged)
        ast.parse(text(edited))
        assert tree_hash(edited) != tree_hash(damaged)


@settings(deadline=None, max_examples=40)
@given(st.sets(st.sampled_from(sorted({*PARTS.values(), "Recipe"}))), st.sampled_from(operators()))
def test_a_missing_part_is_not_applicable(missing: set[str], each: Operator) -> None:
    tree = ast.parse(TEXT)
    tree.body = [node for node in tree.body if getattr(node, "name", "") not in missing]
    program = Program({"program.py": ast.unparse(tree)})
    if PARTS.get(each.part, "Recipe") in missing:
        assert not each.applicable(program)
    assert not set(current(program)) & {part for part, own in PARTS.items() if own in missing}


def test_importing_the_catalogue_loads_neither_torch_nor_libcst() -> None:
    code = (
        "import sys, nightlab.agents.catalogue as c; c.operators();"
        "sys.exit(bool({'torch', 'libcst'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_page_lists_every_variant_and_every_value() -> None:
    page = (Path(__file__).parents[2] / "docs" / "catalogue.md").read_text()
    rows = {
        tuple(cell.strip() for cell in line.strip("|").split(" | "))[:4]
        for line in page.splitlines()
        if line.startswith("| ")
    }
    for each in operators():
        if each.part in PARTS:
            assert (each.part, each.variant, each.hypothesis, each.source) in rows
    ladders = {row[0]: row[1] for row in rows if row[0] in LADDERS}
    for dial, rungs in LADDERS.items():
        assert all(rung in ladders[dial] for rung in rungs)
