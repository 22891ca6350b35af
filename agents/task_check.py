"""``nightlab task check``: what is wrong with a task, found by running its baseline for real."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import numpy as np

from nightlab.agents import catalogue, vet
from nightlab.agents.trial import Bench, discard
from nightlab.errors import UsageError
from nightlab.evals.own_task import rows_of, shared_rows
from nightlab.evals.scorer import make
from nightlab.evals.statistics import NoiseFloor
from nightlab.evals.task import Splits, Task
from nightlab.sandbox.protocol import Sandbox
from nightlab.vocabulary import Ending, Integrity, Measurement, Run, Rung, Split

SCORING_SHARE = 0.15
"""Scoring should cost no more than this share of the cheapest trial."""
IDLE_SHARE = 0.5
"""A trainer that uses less than this share of its budget wastes the rest."""
LEARNED_SIGMAS = 3.0
UNTRAINED = Rung("untrained", 1e-9)
FIRST_SEED = 101


class State(StrEnum):
    """How a check came out."""

    OK = "ok"
    NOTE = "note"
    """It works; a person should know."""
    PROBLEM = "problem"
    """A campaign on this task would fail or mislead."""


@dataclass(frozen=True)
class Finding:
    """One thing that was tried."""

    check: str
    state: State
    found: str
    remedy: str = ""
    """What to do, where there is something to do."""


@dataclass
class Examination:
    """Runs the checks one after another and keeps what the later ones need."""

    task: Task
    sandbox: Sandbox
    home: Path
    trials: int = 4
    """Baseline trials for the noise floor."""
    floor: NoiseFloor | None = field(default=None, init=False)

    def findings(self) -> Iterator[Finding]:
        """Every finding as soon as it is known; ends at the first problem that bars the rest."""
        if broken := vet.refuse(self.task.baseline, self.task.baseline, vet.own_imports(self.task)):
            yield _problem("program", broken, "mend the editable files")
            return
        yield self._catalogue()
        try:
            splits = make(self.task).prepare(self.home)
        except UsageError as error:
            yield _problem("data", str(error), "mend prepare() of the scorer, or [data]")
            return
        yield self._data(splits)
        bench = Bench(task=self.task, splits=splits, sandbox=self.sandbox)
        yield from self._runs(bench)

    def _catalogue(self) -> Finding:
        fitting = catalogue.neighbours(self.task.baseline)
        parts = sorted({operator.part for operator in fitting})
        if parts:
            found = f"{len(fitting)} edits of {len(parts)} parts and dials: {', '.join(parts)}"
            return Finding("catalogue", State.OK, found)
        return Finding(
            "catalogue",
            State.NOTE,
            "it knows no part or dial of this program: only a language model can propose edits",
            "name parts as docs/catalogue.md does, or set NIGHTLAB_MODEL",
        )

    def _data(self, splits: Splits) -> Finding:
        if self.task.script is None:
            return Finding("data", State.OK, splits.origin)
        counts = {split: rows_of(splits, split) for split in Split}
        listed = ", ".join(f"{count} {split}" for split, count in counts.items())
        for split in (Split.SEARCH, Split.HOLDOUT):
            if share := shared_rows(splits, split):
                found = f"{share:.1%} of the {split} rows are in the train split, word for word"
                return _problem("data", found, "keep copies of a row in one split")
        return Finding("data", State.OK, f"rows: {listed}; none of train is in another split")

    def _runs(self, bench: Bench) -> Iterator[Finding]:
        cell = bench.open()
        failed = bench.smoke(cell, self.task.baseline)
        cell.close()
        if failed:
            yield _problem("first step", failed, "mend the trainer or the program")
            return
        yield Finding("first step", State.OK, "builds, takes a step and leaves its outputs")
        rung = self.task.rungs[0]
        trials = []
        for index in range(self.trials):
            run, measured = trial(bench, rung, FIRST_SEED + index)
            trials.append((run, measured))
            if problem := _failed(rung, run, measured):
                yield problem
                return
        yield from self._judged(bench, rung, trials)

    def _judged(
        self, bench: Bench, rung: Rung, trials: Sequence[tuple[Run, Measurement]]
    ) -> Iterator[Finding]:
        yield _budget(rung, [run for run, _ in trials])
        yield Finding("probes", State.OK, self._probes())
        yield _scoring(trials)
        values = [measured.metrics[self.task.metric] for _, measured in trials]
        self.floor = NoiseFloor.measure(rung.name, values)
        yield self._noise()
        yield from self._untrained(bench, self.floor)
        yield from self._largest(bench)

    def _untrained(self, bench: Bench, floor: NoiseFloor) -> Iterator[Finding]:
        """One step each: the same seed twice, and another seed."""
        values = []
        for seed in (FIRST_SEED, FIRST_SEED, FIRST_SEED + 1):
            run, measured = trial(bench, UNTRAINED, seed)
            if problem := _failed(UNTRAINED, run, measured):
                yield problem
                return
            values.append(measured.metrics[self.task.metric])
        yield self._seeded(*values)
        yield self._learned(values[0], floor)

    def _seeded(self, one: float, again: float, other: float) -> Finding:
        found = (
            f"{self.task.metric} after one step: {one:.6g}, again {again:.6g}; other {other:.6g}"
        )
        if one == other:
            return _problem(
                "seed", found, "another seed changes nothing: use --seed in the trainer"
            )
        if not math.isclose(one, again, rel_tol=1e-6):
            remedy = "the same seed should give the same: seed every source of chance with --seed"
            return Finding("seed", State.NOTE, found, remedy)
        return Finding("seed", State.OK, found)

    def _probes(self) -> str:
        if self.task.script is None:
            return "causal, stateless, finite, of the declared shape, in a second process too"
        return "answers depend on no other row and no earlier call, are finite, and of their shape"

    def _noise(self) -> Finding:
        assert self.floor is not None
        low, high = self.floor.sd_interval()
        mean_low, mean_high = self.floor.mean_interval()
        found = (
            f"{self.task.metric} {self.floor.mean:.5g} [{mean_low:.5g}, {mean_high:.5g}], sd from "
            f"seed to seed {self.floor.sd:.2g} [{low:.2g}, {high:.2g}], n = {self.floor.n}"
        )
        return Finding("noise", State.OK, found)

    def _learned(self, untrained: float, floor: NoiseFloor) -> Finding:
        gain = self.task.direction.sign * (floor.mean - untrained)
        found = (
            f"{self.task.metric} {untrained:.5g} after one step, {floor.mean:.5g} after training"
        )
        if gain <= LEARNED_SIGMAS * floor.sd:
            remedy = "training must help by more than noise: longer rungs, or mend the scorer"
            return _problem("learning", found, remedy)
        return Finding("learning", State.OK, found)

    def _largest(self, bench: Bench) -> Iterator[Finding]:
        rung = self.task.rungs[-1]
        if rung == self.task.rungs[0]:
            return
        run, measured = trial(bench, rung, FIRST_SEED)
        if problem := _failed(rung, run, measured):
            yield problem
            return
        value = measured.metrics[self.task.metric]
        assert self.floor is not None
        better = self.task.direction.sign * (value - self.floor.mean) > 0
        found = f"{self.task.metric} {value:.5g} on {rung.name} ({run.wall_seconds:.1f} s)"
        remedy = "" if better else "a larger budget should help: are the rungs too long already?"
        yield Finding("largest rung", State.OK if better else State.NOTE, found, remedy)


def trial(bench: Bench, rung: Rung, seed: int) -> tuple[Run, Measurement]:
    """The baseline, trained and scored once; no metrics where it did not get so far."""
    program = bench.task.baseline
    run = bench.train(bench.open(), program, rung, seed)
    measured = bench.measure(program, run, Split.SEARCH, seed)
    discard(run)
    return run, measured or Measurement(metrics={})


def _failed(rung: Rung, run: Run, measured: Measurement) -> Finding | None:
    if run.ending is not Ending.FINISHED:
        tail = run.log.strip().splitlines()[-1:] or [""]
        return _problem(
            f"training on {rung.name}",
            f"{run.ending}: {run.reason} {tail[0]}".strip(),
            "mend the trainer, its budget or its outputs",
        )
    if measured.integrity is Integrity.TAMPERED:
        return _problem("probes", "; ".join(measured.reasons), "the baseline must pass every probe")
    if not measured.metrics:
        return _problem("scoring", "; ".join(measured.reasons), "mend the scorer or predictor()")
    return None


def _budget(rung: Rung, runs: Sequence[Run]) -> Finding:
    used = float(np.median([run.cpu_seconds for run in runs]))
    peak = max(run.peak_memory_bytes for run in runs) / 2**20
    found = f"{used:.1f} CPU s of {rung.cpu_seconds:g} on {rung.name}, {peak:.0f} MB"
    if used < IDLE_SHARE * rung.cpu_seconds:
        remedy = "train until --budget-seconds of time.process_time() are spent"
        return Finding("budget", State.NOTE, found, remedy)
    return Finding("budget", State.OK, found)


def _scoring(trials: Sequence[tuple[Run, Measurement]]) -> Finding:
    cost = float(np.median([measured.scoring_seconds for _, measured in trials]))
    wall = float(np.median([run.wall_seconds for run, _ in trials]))
    found = f"{cost:.2f} s beside {wall:.1f} s of training"
    if cost > SCORING_SHARE * wall:
        return Finding("scoring", State.NOTE, found, "fewer search rows would make trials cheaper")
    return Finding("scoring", State.OK, found)


def _problem(check: str, found: str, remedy: str) -> Finding:
    return Finding(check, State.PROBLEM, found, remedy)
