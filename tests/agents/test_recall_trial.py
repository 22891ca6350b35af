"""Real trials of recall: what decoding is seen to cost from outside, and who hides it."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from nightlab.agents.catalogue import operator
from nightlab.agents.trial import Bench, discard
from nightlab.evals import scorer, task
from nightlab.sandbox.process import ProcessSandbox
from nightlab.vocabulary import Ending, Integrity, Measurement, Program, Rung, Split

RUNG = Rung("short", 0.5)
FULL = 2 * 2 * 64 * 4
"""Bytes of one token's keys and values: two layers of width 64 in float32."""
WANTED = frozenset({"kv_bytes_per_token", "prefill_ms@2048", "decode_ms@2048"})
DIES = """

_forward = Model.forward

def _short_only(self, tokens_BT):
    if tokens_BT.shape[1] > 1000:
        import os
        os._exit(1)
    return _forward(self, tokens_BT)

Model.forward = _short_only
"""
HOARD = """

_hoard = []
_prefill = Model.prefill

def _keep_a_copy(self, tokens_BT, cache):
    if cache.position == 0:
        _hoard.clear()
        copy = Cache(len(self.blocks))
        self.run(self.embed(tokens_BT), copy)
        _hoard.append(copy)
    return _prefill(self, tokens_BT, cache)

Model.prefill = _keep_a_copy
"""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("tasks") / "recall"
    folder.mkdir()
    shipped = task.SHIPPED / "recall"
    text = (shipped / "task.toml").read_text()
    small = {
        "[64, 128, 256, 512, 1024, 2048] ": "[64] ",
        "1_500_000": "100_000",
        "[512, 2048, 8192] ": "[512, 2048] ",
        "[32, 8, 2] ": "[4, 2] ",
        '"accuracy@8192" = "higher"\n': "",
    }
    for old, new in small.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "task.toml").write_text(text)
    (folder / "program.py").write_text((shipped / "program.py").read_text())
    chosen = task.load(str(folder))
    sandbox = ProcessSandbox()
    splits = scorer.make(chosen).prepare(tmp_path_factory.mktemp("home"))
    yield Bench(task=chosen, splits=splits, sandbox=sandbox, wanted=WANTED)
    sandbox.close()


def tried(bench: Bench, program: Program) -> Measurement:
    run = bench.train(bench.open(), program, RUNG, seed=1)
    assert run.ending is Ending.FINISHED, run.reason
    measured = bench.measure(program, run, Split.SEARCH, seed=1)
    discard(run)
    assert measured is not None
    assert measured.integrity is Integrity.CLEAN, measured.reasons
    return measured


def evicting(bench: Bench, keep: str, variant: str = "suffix") -> Program:
    program = operator("eviction", variant).apply(bench.task.baseline)
    return program if keep == "0.25" else operator("keep", keep).apply(program)


@pytest.mark.slow
def test_memory_seen_from_outside_falls_with_the_share_that_is_kept(bench: Bench) -> None:
    whole = tried(bench, bench.task.baseline).metrics
    assert whole["kv_bytes_per_token"] == pytest.approx(FULL, rel=0.1)
    assert whole["decode_ms@2048"] > 0
    assert whole["prefill_ms@2048"] > whole["decode_ms@2048"]
    half = tried(bench, evicting(bench, "0.5")).metrics
    # A packed row also stores its place.
    assert half["kv_bytes_per_token"] == pytest.approx(FULL / 2, rel=0.2)


@pytest.mark.slow
def test_a_program_that_learns_what_to_evict_frees_as_much(bench: Bench) -> None:
    half = tried(bench, evicting(bench, "0.5", "lookahead")).metrics
    assert half["kv_bytes_per_token"] == pytest.approx(FULL / 2, rel=0.2)
    assert half["params"] < 1.2 * tried(bench, bench.task.baseline).metrics["params"]


@pytest.mark.slow
def test_a_copy_kept_elsewhere_is_seen(bench: Bench) -> None:
    program = evicting(bench, "0.25")
    files = {name: text + HOARD for name, text in program.files.items()}
    assert tried(bench, Program(files)).metrics["kv_bytes_per_token"] > FULL


@pytest.mark.slow
def test_dying_of_a_long_context_costs_its_answers_and_raises_no_suspicion(bench: Bench) -> None:
    program = operator("attention", "sparse_shared").apply(bench.task.baseline)
    mortal = Program({name: text + DIES for name, text in program.files.items()})
    plain = replace(bench, wanted=frozenset())
    metrics = tried(plain, mortal).metrics
    assert metrics["accuracy@2048"] == 0
    assert metrics["accuracy"] == metrics["accuracy@512"] / 2


@pytest.mark.slow
def test_a_program_without_the_contract_is_scored_on_whole_rows(bench: Bench) -> None:
    program = operator("attention", "sparse_shared").apply(bench.task.baseline)
    metrics = tried(bench, program).metrics
    assert "kv_bytes_per_token" not in metrics
    assert metrics["accuracy"] == (metrics["accuracy@512"] + metrics["accuracy@2048"]) / 2
    assert metrics["decode_ms@2048"] > 0
