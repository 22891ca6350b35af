"""Planted edits: null ones change nothing, and the real loop treats them like any others."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from nightlab.agents import catalogue, vet
from nightlab.agents.bench_planted import command
from nightlab.agents.bench_planted.edits import (
    KNOWN,
    Kind,
    attributes,
    known,
    nulls,
    renamed,
    unseen,
)
from nightlab.agents.start import bench
from nightlab.cli import app
from nightlab.evals import corpus
from nightlab.evals.task import load
from nightlab.sandbox.guest.wire import Message
from nightlab.sandbox.process import ProcessSandbox
from nightlab.vocabulary import Limits, Program

BASELINE = load("byte_lm").baseline


def test_every_null_edit_is_another_program_to_the_vetting_and_parses() -> None:
    made = list(nulls(BASELINE, 20))
    hashes = {catalogue.tree_hash(one.program) for one in made}
    assert len(hashes) == len({one.name for one in made}) == 20
    assert catalogue.tree_hash(BASELINE) not in hashes
    for one in made:
        assert vet.refuse(BASELINE, one.program) is None


def test_the_vetting_sees_through_comments_moved_definitions_and_renamed_locals() -> None:
    made = unseen(BASELINE)
    assert len({one.program.id for one in made} - {BASELINE.id}) == 3
    for one in made:
        assert catalogue.tree_hash(one.program) == catalogue.tree_hash(BASELINE)


def test_a_renamed_attribute_leaves_keywords_and_recipe_fields_alone() -> None:
    names = attributes(BASELINE.files["program.py"])
    assert {"qkv", "feed_forward", "blocks"} <= set(names)
    assert not {"heads", "bias", "weight_decay", "lr", "std"} & set(names)


def test_renaming_leaves_strings_comments_and_longer_names_alone() -> None:
    assert renamed("up = 'up'  # up\nupper = up\n", "up", "go") == ("go = 'up'  # up\nupper = go\n")


def test_the_known_edits_apply_to_the_baseline_and_each_has_its_answer() -> None:
    made = known(BASELINE)
    assert sum(one.kind is Kind.GAIN for one in made) == len(KNOWN[Kind.GAIN])
    assert sum(one.kind is Kind.LOSS for one in made) == len(KNOWN[Kind.LOSS])
    assert len({one.program.id for one in made} | {BASELINE.id}) == len(made) + 1


@pytest.mark.slow
def test_null_edits_answer_with_the_very_logits_of_the_baseline(
    tiny_task: Path, tmp_path: Path
) -> None:
    """Untrained, from the same seed: the smoke job's weights are what `build` made of it."""
    task = load(str(tiny_task))
    sandbox = ProcessSandbox()
    place = bench(task, corpus.prepare(task, tmp_path), sandbox, 1)
    try:
        edits = list(nulls(task.baseline, 6))
        found = [logits(place.open(), one) for one in (task.baseline, *(e.program for e in edits))]
        for answer in found[1:]:
            np.testing.assert_array_equal(answer, found[0])
    finally:
        sandbox.close()


PRINTS = """
torch.manual_seed(5)
_model = Model(Recipe()).eval()
with torch.no_grad():
    _logits = _model(torch.arange(64)[None]).double().sum((0, 1))
raise RuntimeError("answer " + " ".join(f"{float(x):.17g}" for x in _logits[:24]))
"""


def logits(cell: object, program: Program) -> np.ndarray:
    """What a fresh model of the program answers, by way of an error message."""
    from nightlab.sandbox.protocol import Cell

    assert isinstance(cell, object)
    asked: Cell = cell  # type: ignore[assignment]
    files = {name: text + PRINTS for name, text in program.files.items()}
    answer = asked.ask(
        Message({"do": "open", "files": files, "device": "cpu"}, [np.zeros(1, np.uint8)]),
        Limits(cpu_seconds=30, wall_seconds=60),
    )
    assert answer is not None
    said = str(answer.header["error"])
    asked.close()
    numbers = said.partition("answer ")[2].split()
    assert len(numbers) > 10
    return np.array([float(n) for n in numbers[:10]])


@pytest.mark.slow
def test_a_small_real_null_campaign_confirms_nothing_and_says_what_it_refused(
    tiny_task: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    made = command.real_null(
        edits=3,
        task=str(tiny_task),
        tier="process",
        home=tmp_path,
        folder=tmp_path / "null",
        seed=1,
        workers=1,
        say=said.append,
    )
    rows, claims = made["rows"], made["claims"]
    assert isinstance(rows, list)
    assert isinstance(claims, list)
    assert len(rows) == len(said) == 6
    assert all(claim["holds"] for claim in claims)
    assert [row["verdict"] for row in rows[:3]] == ["invalid"] * 3
    assert all("the same program" in row["reason"] for row in rows[:3])
    assert all(row["trials"] >= 1 for row in rows[3:])
    command.plot(made, tmp_path / "null.png")
    assert (tmp_path / "null.png").stat().st_size > 10_000


def test_the_simulated_benches_print_one_document_and_draw_a_picture(tmp_path: Path) -> None:
    for name in ("null", "known"):
        done = CliRunner().invoke(
            app, ["bench", name, "--campaigns", "200", "--out", str(tmp_path), "--json"]
        )
        assert done.exit_code == 0
        document = json.loads(done.stdout)
        assert {"bench", "machine", "date", "settings", "rows", "claims"} <= set(document)
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000
