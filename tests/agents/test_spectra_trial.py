"""Spectra of real trials: the trainer's records against the oracle's, and who lies about them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from nightlab.agents import probing
from nightlab.agents.trial import Bench
from nightlab.evals import corpus, task
from nightlab.evals.bits_per_byte import BitsPerByte
from nightlab.evals.nerve import log
from nightlab.sandbox.guest.windows import PROBE_ROWS
from nightlab.sandbox.process import ProcessSandbox
from nightlab.vocabulary import Ending, Integrity, Measurement, Program, Run, Rung, Split

RUNG = Rung("short", 1.0)

FORGER = """

import json as _json
from nightlab.sandbox.guest import spectra as _spectra
_write = _spectra.Recording._write

def _forged(self, step, records, loss):
    for record in records:
        for name in ("pr", "pr_corrected"):
            if name in record:
                record[name] = min(record["n"] - 1, record["d"]) * 0.9
        if record["place"] == "post":
            record["pr_gain_corrected"] = 5.0
    _write(self, step, records, loss)

_spectra.Recording._write = _forged
"""
SILENT = """

from nightlab.sandbox.guest import spectra as _spectra
_spectra.Recording._write = lambda self, step, records, loss: None
"""
GARBLED = """

from nightlab.sandbox.guest import spectra as _spectra
_spectra.Recording._write = lambda self, step, records, loss: self._file.write('{"pr": 9}')
"""
BOTH = """

from nightlab.kernels.spectra import definitions as _definitions
_definitions.Spread.corrected_participation_ratio = lambda self: 0.9 * min(self.n - 1, self.d)
"""
SMALL = """

Recipe.__init__.__defaults__ = tuple(
    {"context": 8, "batch": 2}.get(name, each.default)
    for name, each in Recipe.__dataclass_fields__.items()
)
"""
BROKEN = """

from nightlab.sandbox.guest import spectra as _spectra
def _raise(self, step=0):
    raise RuntimeError("no spectra of this model")
_spectra.Recorder.watching = _raise
"""


@pytest.fixture(scope="module")
def bench(tiny_task: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    chosen = task.load(str(tiny_task))
    splits = corpus.prepare(chosen, tmp_path_factory.mktemp("data"))
    sandbox = ProcessSandbox()
    yield Bench(task=chosen, splits=splits, sandbox=sandbox)
    sandbox.close()


def tried(bench: Bench, lie: str = "") -> tuple[Run, Measurement]:
    files = dict(bench.task.baseline.files)
    files["program.py"] += lie
    program = Program(files)
    run = bench.train(bench.open(), program, RUNG, seed=1)
    assert run.ending is Ending.FINISHED, run.reason
    measured = bench.measure(program, run, Split.SEARCH, seed=1)
    assert measured is not None
    return run, measured


def test_an_honest_run_leaves_spectra_that_agree_with_the_oracles(bench: Bench) -> None:
    run, measured = tried(bench)
    assert run.outputs is not None
    assert (measured.integrity, measured.reasons) == (Integrity.CLEAN, ())
    seen = log.read((run.outputs / "spectra.jsonl").read_bytes())
    assert not seen.fault
    last = seen.reports[-1]
    assert {(r.layer, r.place) for r in last.readings} == {
        (layer, place) for layer in range(3) for place in ("pre", "post")
    }
    assert {r.size for r in last.readings} == {(160, 256)}
    assert last.loss is None
    assert (run.outputs / "probes.json").is_file()


def test_few_tokens_and_small_batches_raise_no_alarm(bench: Bench) -> None:
    """N of a report is then a fifth of a usual one, and the batch smaller than a probe."""
    run, measured = tried(bench, SMALL)
    assert (measured.integrity, measured.reasons) == (Integrity.CLEAN, ())
    assert run.outputs is not None
    seen = log.read((run.outputs / "spectra.jsonl").read_bytes())
    assert {r.n for r in seen.reports[-1].readings} == {PROBE_ROWS * 8}


def test_a_report_that_is_a_twentieth_off_is_caught(bench: Bench) -> None:
    lie = FORGER.replace('min(record["n"] - 1, record["d"]) * 0.9', "1.05 * record[name]")
    _, measured = tried(bench, lie)
    assert measured.integrity is Integrity.SUSPECT


@pytest.mark.parametrize(
    ("lie", "doubt"),
    [(FORGER, "pr_corrected"), (SILENT, "found, not reported"), (GARBLED, "cannot be read")],
)
def test_a_program_that_misreports_its_spectra_is_suspect_and_gains_nothing(
    bench: Bench, lie: str, doubt: str
) -> None:
    run, measured = tried(bench, lie)
    assert measured.integrity is Integrity.SUSPECT
    assert doubt in " ".join(measured.reasons)
    assert len(measured.reasons) <= probing.DOUBTS + 1
    assert 1.0 < measured.metrics["val_bpb"] < 8.0
    assert run.outputs is not None


def test_a_forger_of_both_sides_is_not_caught_and_its_score_is_the_same(bench: Bench) -> None:
    """The limit of the check: such spectra come from the program's own processes."""
    run, measured = tried(bench, BOTH)
    assert measured.integrity is Integrity.CLEAN
    assert 1.0 < measured.metrics["val_bpb"] < 8.0
    assert run.outputs is not None
    forged = log.read((run.outputs / "spectra.jsonl").read_bytes()).reports[-1].readings
    assert {r.pr_corrected for r in forged} == {0.9 * 159}


def test_a_fault_of_the_recorder_ends_the_recording_and_not_the_training(bench: Bench) -> None:
    run, measured = tried(bench, BROKEN)
    assert run.outputs is not None
    seen = log.read((run.outputs / "spectra.jsonl").read_bytes())
    assert seen.reports == ()
    assert "no spectra of this model" in seen.fault
    assert measured.metrics["val_bpb"] > 1.0


def test_recording_leaves_the_training_as_it_was(bench: Bench) -> None:
    """With a rate that no clock sets, a run with spectra at every step has the same losses."""
    curves = []
    for due in ("False", "step > 0"):
        change = f"{SILENT}_spectra.Recording._due = lambda self, step: {due}\n"
        run, _ = tried(bench, change + "schedule = lambda progress, recipe: 1.0\n")
        assert run.outputs is not None
        text = (run.outputs / "curve.jsonl").read_text()
        curves.append([line.split('"step": ')[1] for line in text.splitlines()[:3]])
    assert curves[0] == curves[1]


def test_both_sides_probe_the_same_number_of_rows(tmp_path: Path) -> None:
    text = (np.arange(5000) % 256).astype(np.uint8)
    split = tmp_path / "search.bin"
    text.tofile(split)
    scorer = BitsPerByte(task.load("byte_lm"))
    rng = np.random.default_rng(0)
    found = [scorer.sample(split, PROBE_ROWS, 128, rng) for _ in range(probing.BATCHES)]
    assert [batch.shape for batch in found] == [(PROBE_ROWS, 128)] * probing.BATCHES
    assert not np.array_equal(found[0], found[1])
