"""What the hash of the normalised syntax tree sees, and what it does not."""

import ast
import random
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from nightlab.agents.catalogue import tree_hash
from nightlab.evals.tasks.byte_lm import program as baseline_module
from nightlab.vocabulary import Program

TEXT = Path(baseline_module.__file__).read_text()
LINES = TEXT.splitlines(keepends=True)
NUMBERS = [
    node
    for node in ast.walk(ast.parse(TEXT))
    if isinstance(node, ast.Constant) and type(node.value) in (int, float)
]
DEFINITIONS = [node.lineno for node in ast.parse(TEXT).body if isinstance(node, ast.ClassDef)]


def digest(text: str) -> str:
    return tree_hash(Program({"program.py": text}))


def with_line(number: int, line: str) -> str:
    """The baseline with another line ``number``, counted from 1."""
    return "".join([*LINES[: number - 1], line, *LINES[number:]])


def test_formatting_and_docstrings_do_not_matter() -> None:
    assert digest(ast.unparse(ast.parse(TEXT))) == digest(TEXT)
    assert digest(TEXT.replace("Layer norm with gain and bias.", "Quite another story.")) == digest(
        TEXT
    )


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from(DEFINITIONS), max_size=5), st.text("abc #", max_size=20))
def test_comments_and_blank_lines_do_not_matter(places: list[int], words: str) -> None:
    text = list(LINES)
    for place in sorted(set(places), reverse=True):
        before = place - 1 if text[place - 2].startswith("@") is False else place - 2
        text[before:before] = [f"# {words}\n", "\n"]
    assert digest("".join(text)) == digest(TEXT)


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(NUMBERS), st.sampled_from([1, -1, 0.5]))
def test_a_changed_constant_matters(number: ast.Constant, by: float) -> None:
    line = LINES[number.lineno - 1]
    assert isinstance(number.value, int | float)
    new = repr(number.value + by)
    changed = line[: number.col_offset] + new + line[number.end_col_offset :]
    assert digest(with_line(number.lineno, changed)) != digest(TEXT)


def test_numbers_of_equal_value_but_other_type_are_told_apart() -> None:
    assert digest("x = 1\n") != digest("x = 1.0\n")


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32))
def test_the_order_of_independent_definitions_does_not_matter(seed: int) -> None:
    source = [
        "import math",
        "import torch",
        "def one():\n    return two()",
        "def two():\n    return math.pi",
        "class Three:\n    def four(self):\n        return torch.ones(one())",
    ]
    shuffled = random.Random(seed).sample(source, len(source))
    assert digest("\n".join(shuffled)) == digest("\n".join(source))


def test_an_order_that_changes_meaning_matters() -> None:
    early = "class A: ...\nclass B(A): ...\n"
    late = "class B(A): ...\nclass A: ...\n"
    assert digest(early) != digest(late)
    assert digest("def f(): return 1\ndef f(): return 2\n") != digest(
        "def f(): return 2\ndef f(): return 1\n"
    )
    assert digest("x = 1\nx = 2\n") != digest("x = 2\nx = 1\n")
    assert digest("@note()\ndef f(): ...\n@note()\ndef g(): ...\n") != digest(
        "@note()\ndef g(): ...\n@note()\ndef f(): ...\n"
    )


def test_the_names_of_local_variables_do_not_matter() -> None:
    first = "def f(x):\n    total = x + 1\n    return [total for _ in range(total)]\n"
    assert digest(first.replace("total", "sum_")) == digest(first)


def test_names_that_callers_or_other_scopes_see_matter() -> None:
    assert digest("def f(x): return x\n") != digest("def f(y): return y\n")
    assert digest("def f():\n    return a\n") != digest("def f():\n    return b\n")
    outer = "def f():\n    a = 1\n    def g():\n        return {}\n    return g\n"
    assert digest(outer.format("a")) != digest(outer.format("b"))
    default = "def f(x={}):\n    {} = 1\n    return x\n"
    assert digest(default.format("a", "a")) != digest(default.format("b", "b"))
    assert digest("class A:\n    a = 1\n") != digest("class A:\n    b = 1\n")


def test_swapped_locals_are_another_program() -> None:
    text = "def f():\n    a = g(1)\n    b = g(2)\n    return {} - {}\n"
    assert digest(text.format("a", "b")) != digest(text.format("b", "a"))


def test_unread_imports_do_not_matter_but_future_ones_do() -> None:
    assert digest("import os\n" + TEXT) == digest(TEXT)
    assert digest("from __future__ import annotations\nx = 1\n") != digest("x = 1\n")


@settings(deadline=None, max_examples=40)
@given(st.text(max_size=200))
def test_any_text_has_a_hash(text: str) -> None:
    assert len(digest(text)) == 16
    assert digest(text) == digest(text)


def test_file_names_matter() -> None:
    one = Program({"program.py": TEXT, "extra.py": "x = 1\n"})
    other = Program({"program.py": TEXT, "more.py": "x = 1\n"})
    assert len({tree_hash(one), tree_hash(other), digest(TEXT)}) == 3
