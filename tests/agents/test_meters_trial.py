"""Real programs under the meters: what is counted, what it costs, and who lies about it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from nightlab.agents import borne
from nightlab.agents.catalogue import operator
from nightlab.agents.trial import Bench, discard, fed
from nightlab.evals import scorer
from nightlab.evals.meters import CPU_METRIC
from nightlab.evals.task import load
from nightlab.memory.records import Trial
from nightlab.sandbox.process import ProcessSandbox
from nightlab.vocabulary import (
    Ending,
    Integrity,
    Measurement,
    Program,
    Run,
    Rung,
    Split,
    Tier,
)

if TYPE_CHECKING:
    from tests.agents.ended import trial
else:
    from ended import trial

RUNG = Rung("small", 0.4)
WANTED = frozenset({"flops_per_token", "train_tokens_per_s", "decode_ms@4096"})
MISCOUNT = """
from torch.utils import flop_counter
flop_counter.FlopCounterMode.get_total_flops = lambda self: 2_000_000
"""
HURRY = """
class Hurried(Model):
    def forward(self, tokens_BT):
        if not self.training and len(tokens_BT) == 1:
            return torch.zeros(*tokens_BT.shape, VOCABULARY)
        return super().forward(tokens_BT)
Model = Hurried
"""
BOAST = """
_make = make_optimizer
def make_optimizer(model, recipe):
    optimizer = _make(model, recipe)
    def finish():
        import sys
        out = sys._getframe(1).f_locals["job"].out
        (out / "curve.jsonl").write_text('{"progress": 1.0, "loss": 3.0, "tokens": 100000000}')
    optimizer.finish = finish
    return optimizer
"""


@pytest.fixture(scope="module")
def bench(tiny_task: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    task, sandbox = load(str(tiny_task)), ProcessSandbox()
    splits = scorer.make(task).prepare(tmp_path_factory.mktemp("home"))
    yield Bench(task=task, splits=splits, sandbox=sandbox, wanted=WANTED)
    sandbox.close()


def tried(bench: Bench, program: Program) -> Trial:
    run = bench.train(bench.open(), program, RUNG, seed=1)
    measured = bench.measure(program, run, Split.SEARCH, seed=1)
    discard(run)
    return trial(run, measured)


@pytest.fixture(scope="module")
def honest(bench: Bench) -> Trial:
    return tried(bench, bench.task.baseline)


def cheating(bench: Bench, cheat: str) -> Trial:
    text = bench.task.baseline.files["program.py"]
    return tried(bench, Program({"program.py": text + cheat}))


def test_the_baseline_counts_the_flops_of_its_matrices_and_attention(honest: Trial) -> None:
    depth, width, context, vocabulary = 3, 64, 128, 256
    matrices = depth * 12 * width**2 + width * vocabulary
    attention = depth * 2 * context * width
    assert honest.value("flops_per_token") == 2 * (matrices + attention)


def test_one_layer_of_three_computes_less_and_its_cpu_time_bears_that_out(
    bench: Bench, honest: Trial
) -> None:
    shallow = tried(bench, operator("depth", "1").apply(bench.task.baseline))
    few, many = (each.value("flops_per_token") or 0.0 for each in (shallow, honest))
    assert 0 < few < 0.45 * many
    assert (shallow.value("train_tokens_per_s") or 0) > (honest.value("train_tokens_per_s") or 0)
    assert borne.unborne(WANTED, [shallow], [honest]) is None


@pytest.mark.slow
def test_a_forged_count_of_flops_is_not_believed(bench: Bench, honest: Trial) -> None:
    liar = cheating(bench, MISCOUNT)
    assert (liar.value("flops_per_token") or 0.0) < 0.1 * (honest.value("flops_per_token") or 0.0)
    reason = borne.unborne(WANTED, [liar], [honest])
    assert reason is not None
    assert "FLOPs" in reason
    assert borne.unborne({"val_bpb"}, [liar], [honest]) is None


@pytest.mark.slow
def test_a_forged_count_of_tokens_is_not_believed(bench: Bench, honest: Trial) -> None:
    liar = cheating(bench, BOAST)
    reason = borne.unborne(WANTED, [liar], [honest])
    assert reason is not None
    assert "tokens a second" in reason


@pytest.mark.slow
def test_a_program_that_answers_single_sequences_fast_and_wrong_is_refused(bench: Bench) -> None:
    liar = cheating(bench, HURRY)
    assert liar.measurement is not None
    assert liar.measurement.integrity is Integrity.TAMPERED
    assert "while it was metered" in liar.measurement.reasons[0]
    plain = replace(bench, wanted=frozenset())
    program = Program({"program.py": bench.task.baseline.files["program.py"] + HURRY})
    run = plain.train(plain.open(), program, RUNG, seed=1)
    unmetered = plain.measure(program, run, Split.SEARCH, seed=1)
    discard(run)
    assert unmetered is not None
    assert unmetered.integrity is Integrity.CLEAN


def test_a_window_is_read_for_a_token_behind_a_context_that_positions_do_not_reach(
    honest: Trial,
) -> None:
    assert 0 < (honest.value("decode_ms@4096") or 0.0) < 1000


def test_tokens_trained_on_are_all_the_steps_there_were(bench: Bench) -> None:
    run = bench.train(bench.open(), bench.task.baseline, RUNG, seed=1)
    assert run.outputs is not None
    tokens = fed(run.outputs)
    discard(run)
    assert tokens is not None
    assert tokens % (32 * 128) == 0
    assert tokens >= 2 * 32 * 128


@pytest.mark.parametrize("text", ["", "[]", '{"tokens": true}', '{"tokens": -3}', "{", "{}"])
def test_a_curve_without_a_count_gives_no_pace(text: str, tmp_path: Path) -> None:
    (tmp_path / "curve.jsonl").write_text(text)
    assert fed(tmp_path) is None


def believed(counted: float, seen: float) -> bool:
    """Whether so many times the baseline's FLOPs are, at so many times its CPU time."""
    run = Run(ending=Ending.FINISHED, tier=Tier.PROCESS)
    rows = [
        trial(run, Measurement(metrics={"flops_per_token": flops, CPU_METRIC: cpu}))
        for flops, cpu in ((counted, seen), (1.0, 1.0))
    ]
    return borne.unborne({"flops_per_token"}, rows[:1], rows[1:]) is None


@pytest.mark.parametrize(
    ("counted", "seen", "is_believed"),
    [
        (1.0, 1.0, True),
        (1.0, 1.24, True),
        (1.0, 1.5, False),
        (0.5, 0.5, True),
        (0.5, 0.9, True),
        (0.5, 1.0, False),
        (0.01, 0.7, False),
        (2.0, 1.2, True),
        (2.0, 3.0, False),
    ],
)
def test_half_of_what_a_count_saves_must_be_seen(
    counted: float, seen: float, is_believed: bool
) -> None:
    assert believed(counted, seen) is is_believed
