"""Own tasks in real sandboxes: the scaffold, the example of the docs, cheats, and what is wrong."""

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nightlab.agents import catalogue
from nightlab.agents.start import Order, begin, resume
from nightlab.agents.task_check import Examination, Finding, State
from nightlab.agents.trial import Bench
from nightlab.errors import MissingError, UsageError
from nightlab.evals import own_corpus
from nightlab.evals.new_task import create
from nightlab.evals.scorer import make
from nightlab.evals.task import Task, load
from nightlab.memory.ledger import Ledger
from nightlab.sandbox.guest import script
from nightlab.sandbox.process import ProcessSandbox
from nightlab.vocabulary import (
    Budget,
    Direction,
    Ending,
    Integrity,
    Objective,
    Program,
    Rung,
    Split,
)

DOCS = Path(__file__).parents[2] / "docs" / "your-task.md"
SHORT = Rung("short", 0.3)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[ProcessSandbox]:
    opened = ProcessSandbox()
    yield opened
    opened.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return create("spirals", tmp_path)


def edited(folder: Path, file: str, *changes: tuple[str, str]) -> Task:
    """The task with some text of a file replaced."""
    text = (folder / file).read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / file).write_text(text)
    return load(str(folder))


def bench(task: Task, sandbox: ProcessSandbox, home: Path) -> Bench:
    return Bench(task=task, splits=make(task).prepare(home), sandbox=sandbox)


def measured(place: Bench, program: Program | None = None) -> Any:
    """Train and score; the run where it did not finish, else the measurement."""
    program = program or place.task.baseline
    run = place.train(place.open(), program, SHORT, seed=1)
    return place.measure(program, run, Split.SEARCH, 1) or run


def test_the_scaffold_trains_and_is_scored_outside(
    folder: Path, sandbox: ProcessSandbox, tmp_path: Path
) -> None:
    place = bench(load(str(folder)), sandbox, tmp_path)
    found = measured(place)
    assert found.integrity is Integrity.CLEAN, found.reasons
    assert found.metrics["val_loss"] < 1.0986  # less than a guess: ln 3
    assert found.metrics["accuracy"] > 1 / 3
    assert found.metrics["params"] == 8771
    assert sorted(path.name for path in place.splits.train.iterdir()) == ["train.safetensors"]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("return self.head(self.norm(x_ND))", "x_ND = x_ND - x_ND.mean(0)\n        return "
         "self.head(x_ND) * (1 if self.training else 1e-4)", "other company"),
        ("x_ND = self.embed(x_ND)", "self.seen = getattr(self, 'seen', 0) + 1\n        "
         "x_ND = self.embed(x_ND * (1 if self.training else self.seen))", "other company"),
        ("return self.head(self.norm(x_ND))",
         "return self.head(self.norm(x_ND)) / (1 if self.training else 0)", "not finite"),
        ("return self.head(self.norm(x_ND))",
         "y = self.head(self.norm(x_ND))\n        return y if self.training else y[:, :2]",
         "shape"),
    ],
)  # fmt: skip
def test_a_program_that_answers_by_more_than_its_row_is_rejected(
    old: str, new: str, says: str, folder: Path, sandbox: ProcessSandbox, tmp_path: Path
) -> None:
    task = edited(folder, "program.py", (old, new))
    found = measured(bench(task, sandbox, tmp_path))
    assert found.integrity is Integrity.TAMPERED
    assert says in found.reasons[0]
    assert found.metrics == {}


@pytest.mark.parametrize(
    ("line", "ending"),
    [
        ("import pathlib, sys; pathlib.Path(sys.argv[4], 'more.json').write_text('{}')",
         Ending.BAD_OUTPUT),
        ("import os; os._exit(0)", Ending.CRASHED),
        ("raise SystemExit(3)", Ending.CRASHED),
        ("import time; t = time.process_time\nwhile t() < 99: pass", Ending.TIMEOUT),
    ],
)  # fmt: skip
def test_what_a_program_does_beside_training_ends_the_run(
    line: str, ending: Ending, folder: Path, sandbox: ProcessSandbox, tmp_path: Path
) -> None:
    task = edited(folder, "program.py", ("import math\n", f"import math\n{line}\n"))
    found = measured(bench(task, sandbox, tmp_path))
    assert found.ending is ending or (ending is Ending.CRASHED and found.ending != Ending.FINISHED)


def test_a_scorer_that_chokes_on_answers_is_the_trials_failure(
    folder: Path, sandbox: ProcessSandbox, tmp_path: Path
) -> None:
    task = edited(folder, "scorer.py", ('["logits"]', '["logits"][:, 7]'))
    found = measured(bench(task, sandbox, tmp_path))
    assert found.metrics == {}
    assert "IndexError" in found.reasons[0]


def test_every_edit_of_the_catalogue_that_applies_to_the_scaffold_trains(
    folder: Path, tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    task = load(str(folder))
    assert task.script is not None
    splits = make(task).prepare(tmp_path)
    edits = catalogue.neighbours(task.baseline)
    assert {"norm", "optimizer", "schedule", "width", "learning_rate"} <= {e.part for e in edits}
    job = {"seed": 1, "data": str(splits.train), "outputs": list(task.script.outputs)}
    for edit in edits:
        files = {**edit.apply(task.baseline).files, **task.script.frozen}
        place = script.folder_of(files)
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(place)
            script.smoke(place / task.script.trainer, job)
            patch.delitem(sys.modules, "program")
        shutil.rmtree(place)


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """The three files of the docs' example."""
    folder = tmp_path / "friedman"
    folder.mkdir()
    pattern = r"^`([\w.]+)`[^\n]*:\n\n```\w+\n(.*?)^```$"
    found = re.findall(pattern, DOCS.read_text(), re.DOTALL | re.MULTILINE)
    assert sorted(name for name, _ in found) == ["fit.py", "scorer.py", "task.toml"]
    for name, text in found:
        (folder / name).write_text(text)
    return folder


def test_the_docs_example_wraps_a_training_script_in_under_sixty_lines(example: Path) -> None:
    lines = [line for file in ("scorer.py", "task.toml") for line in _lines(example / file)]
    lines += [line for line in _lines(example / "fit.py") if line.endswith("# lab")]
    assert 30 < len(lines) < 60


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if line.strip()]


def test_the_docs_example_is_ready_for_a_campaign(
    example: Path, sandbox: ProcessSandbox, tmp_path: Path
) -> None:
    text = (example / "task.toml").read_text()
    (example / "task.toml").write_text(text.replace("cpu_seconds = 2", "cpu_seconds = 0.5"))
    examination = Examination(load(str(example)), sandbox, tmp_path, trials=3)
    found = {finding.check: finding for finding in examination.findings()}
    assert [f for f in found.values() if f.state is State.PROBLEM] == []
    assert "width" in found["catalogue"].found
    assert examination.floor is not None
    assert 0 < examination.floor.sd < examination.floor.mean < 5


def problems(task: Task, sandbox: ProcessSandbox, home: Path) -> list[Finding]:
    found = Examination(task, sandbox, home, trials=3).findings()
    return [finding for finding in found if finding.state is State.PROBLEM]


FAST = ("cpu_seconds = 2\n", "cpu_seconds = 0.3\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "change", "check"),
    [
        ("program.py", ("class Norm", "class Norm("), "program"),
        ("scorer.py", ('return {\n        "train"', 'return {\n        "training"'), "data"),
        ("scorer.py", ('spirals(data["search_rows"], data["noise"], rng)',
                       'spirals(4000, 0.03, np.random.default_rng(0))'), "data"),
        ("train.py", ("weights.safetensors", "weights.bin"), "first step"),
        ("train.py", ("def predictor", "def predicts"), "first step"),
        ("train.py", ("while True:", "while True:\n        [1] * 10**9"), "first step"),
        ("train.py", ("torch.manual_seed(arguments.seed)", "torch.manual_seed(0)"), "seed"),
        ("scorer.py", ('"accuracy": ', '"exactness": '), "scoring"),
        ("scorer.py", ("logp[rows, split", "0 * logp[rows, split"), "learning"),
    ],
)  # fmt: skip
def test_the_check_names_what_is_wrong_and_how_to_mend_it(
    file: str,
    change: tuple[str, str],
    check: str,
    folder: Path,
    sandbox: ProcessSandbox,
    tmp_path: Path,
) -> None:
    (folder / "task.toml").write_text(
        re.sub(r"cpu_seconds = \d", "cpu_seconds = 0.3", (folder / "task.toml").read_text())
    )
    found = problems(edited(folder, file, change), sandbox, tmp_path)
    assert check in {finding.check for finding in found}
    assert all(finding.remedy for finding in found)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('outputs = ["weights.safetensors"]', 'outputs = ["weights.pkl"]', "safetensors"),
        ('outputs = ["weights.safetensors"]', 'outputs = ["../w.safetensors"]', "plain"),
        ('scorer = "scorer.py"', 'scorer = "none.py"', "none.py"),
        ('trainer = "train.py"', 'trainer = "none.py"', "none.py"),
        ("logits = [3]", "", "answers"),
        ('editable = ["program.py"]', "", "editable"),
        ("cpu_seconds = 2", "cpu_seconds = -2", "positive"),
        ("frozen = []", 'frozen = ["program.py"]', "frozen"),
    ],
)
def test_a_task_file_that_cannot_be_used_is_refused_in_one_line(
    old: str, new: str, says: str, folder: Path
) -> None:
    with pytest.raises(UsageError, match=says) as refusal:
        edited(folder, "task.toml", (old, new))
    assert "\n" not in str(refusal.value)


def test_a_new_task_takes_no_name_or_folder_that_is_taken(tmp_path: Path) -> None:
    create("mine", tmp_path)
    (tmp_path / "mine" / "program.py").write_text("my work")
    for name in ("mine", "byte_lm", "../up", ""):
        with pytest.raises(UsageError):
            create(name, tmp_path)
    assert (tmp_path / "mine" / "program.py").read_text() == "my work"


def test_where_nobody_can_propose_a_campaign_says_so_and_does_not_begin(
    example: Path, sandbox: ProcessSandbox, tmp_path: Path
) -> None:
    text = (example / "fit.py").read_text()
    (example / "fit.py").write_text(text.replace("Recipe", "Setup"))
    objective = Objective(metric="rmse", direction=Direction.LOWER, budget=Budget(seconds=600.0))
    order = Order(goal="lower rmse", objective=objective, task=str(example))
    with Ledger.open(f"sqlite:///{tmp_path}/ledger.db", tmp_path / "artifacts") as ledger:
        with pytest.raises(MissingError, match="NIGHTLAB_MODEL"):
            begin(order, ledger, sandbox, tmp_path)
        assert ledger.campaigns() == []


def test_a_campaign_keeps_the_version_of_a_corpus_that_its_task_names(
    tiny_task: Path, sandbox: ProcessSandbox, tmp_path: Path
) -> None:
    folder = tmp_path / "named"
    shutil.copytree(tiny_task, folder)
    text = (folder / "task.toml").read_text()
    (folder / "task.toml").write_text(text.replace("[data]\n", '[data]\ncorpus = "mine"\n'))
    lines = [f"line {i} says {i * i}\n".encode() * 200 for i in range(40)]
    old = own_corpus.add_texts("mine", lines, tmp_path)
    objective = Objective(metric="val_bpb", direction=Direction.LOWER, budget=Budget(trials=40))
    order = Order(goal="lower val_bpb", objective=objective, task=str(folder))
    with Ledger.open(f"sqlite:///{tmp_path}/ledger.db", tmp_path / "artifacts") as ledger:
        lab = begin(order, ledger, sandbox, tmp_path).lab
        ledger.release_lease(lab.lease)
        own_corpus.add_texts("mine", [line + b"more" for line in lines], tmp_path, instead=True)
        again = resume(lab.campaign.id, ledger, sandbox, tmp_path).lab
        ledger.release_lease(again.lease)
    assert again.bench.splits.digest == old.digest
    assert again.bench.splits.train.is_dir()


def test_splits_that_differ_are_other_data(folder: Path, tmp_path: Path) -> None:
    before = make(load(str(folder))).prepare(tmp_path)
    assert make(load(str(folder))).prepare(tmp_path) == before
    after = make(edited(folder, "task.toml", ("noise = 0.03", "noise = 0.02"))).prepare(tmp_path)
    assert after.digest != before.digest
    assert np.fromfile(before.search, np.uint8).size == np.fromfile(after.search, np.uint8).size
