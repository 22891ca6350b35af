"""Early abort: hear a screening trial's curve, and stop it where it cannot win.

A curve is self-reported, so it may only ever hurt the program that reported it. The curves that a
challenger is compared with, and those the forecast is made from, are therefore of programs that
hold nothing but the lab's own code: an incumbent that was written by somebody else is replaced by
its newest confirmed ancestor that was not, which is no harder to beat. A challenger that forges a
rosy curve is trained to its end and scored by trusted code like any other.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nightlab.agents import catalogue
from nightlab.agents.lab import Lab
from nightlab.evals.abort import AbortRule, Checkup, Curve, Fate, Finished
from nightlab.memory.records import Arm, Trial
from nightlab.sandbox.protocol import AbortError
from nightlab.vocabulary import Program, Purpose, Verdict

CHECKPOINTS = (0.25, 0.5, 0.75)
"""Fractions of the budget at which a curve is judged."""
SCHEDULING = frozenset(
    {"schedule", "optimizer", "learning_rate", "warmup", "batch", "beta2", "initialise"}
)
"""Parts that bend a curve: an edit of one may be behind half-way and ahead at the end."""
COIN_CODE = 9
"""Keeps the audit's coins apart from the campaign's other draws."""


@dataclass
class Watch:
    """One trial that is being listened to."""

    reference: Trial
    curve: Curve
    """The reference's."""
    finished: tuple[Finished, ...]
    coin: float
    touches_schedule: bool
    rule: AbortRule
    checkup: Checkup | None = None
    """The one that stopped the trial, or would have."""
    points: list[tuple[float, float]] = field(default_factory=list)
    """Budget fraction and loss, self-reported."""

    def restart(self) -> None:
        """Forget a try that the environment lost."""
        self.checkup, self.points = None, []

    def hear(self, point: Mapping[str, object]) -> None:
        """Take a reported point. Points that make no curve are passed over.

        Raises:
            AbortError: the trial cannot win.
        """
        found = _point(point)
        before = self.points[-1][0] if self.points else -1.0
        if found is None or not before < found[0] <= 1:
            return
        self.points.append(found)
        passed = any(before < at <= found[0] for at in CHECKPOINTS)
        if not passed or self.checkup is not None:
            return
        checkup = self.rule.check(
            _curve(self.points),
            self.curve,
            self.finished,
            coin=self.coin,
            touches_schedule=self.touches_schedule,
        )
        if checkup.fate is not Fate.RUN:
            self.checkup = checkup
        if checkup.fate is Fate.ABORT:
            raise AbortError(f"{checkup.reason}, beside {self.reference.id}")

    def evidence(self) -> bytes | None:
        """What led to the abort, or to the audit in its place, as JSON; None without one."""
        if self.checkup is None:
            return None
        seen = vars(self.checkup)
        return json.dumps(
            {
                **{k: v if not isinstance(v, float) or math.isfinite(v) else None
                   for k, v in seen.items()},
                "reference": self.reference.id,
                "curve": self.points,
            }
        ).encode()  # fmt: skip


@dataclass
class Listener:
    """Makes watches from the campaign's stored curves, each of which is read once."""

    lab: Lab
    rule: AbortRule = field(default_factory=AbortRule)
    _curves: dict[str, Curve | None] = field(default_factory=dict)
    _ours: dict[str, bool] = field(default_factory=dict)

    def watch(self, experiment: str, seed: int) -> Watch | None:
        """A watch over an experiment's first screening trial; None where nothing can be said.

        That is so where the objective is no matter of the loss (a size, a speed), and where the
        reference has no trial on the seed yet.
        """
        lab = self.lab
        if lab.objective.metric != lab.bench.task.metric:
            return None
        known = self._trials(seed)
        reference = known.get(self._reference())
        curve = self._curve(reference) if reference else None
        if reference is None or curve is None:
            return None
        mine, theirs = lab.program_of(experiment), lab.program_of(reference.experiment)
        number = lab.ledger.experiment(experiment).number
        return Watch(
            reference=reference,
            curve=curve,
            finished=self._finished(known, reference, curve),
            coin=float(np.random.default_rng([lab.campaign.seed, COIN_CODE, number]).random()),
            touches_schedule=bends(mine, theirs),
            rule=self.rule,
        )

    def _reference(self) -> str:
        """The incumbent, or its newest confirmed ancestor whose curve cannot be forged."""
        line = self.lab.ledger.lineage(self.lab.incumbent())
        able = [e.id for e in line if e.verdict is Verdict.CONFIRMED and self._is_ours(e.id)]
        return able[-1] if able else self.lab.baseline

    def _trials(self, seed: int) -> dict[str, Trial]:
        """Usable screening trials of our own code on a seed, by experiment."""
        lab = self.lab
        return {
            t.experiment: t
            for t in lab.ledger.trials(
                campaign=lab.campaign.id, rung=lab.plan.screen.name, seed=seed
            )
            if t.arm is Arm.CANDIDATE
            and t.purpose in (Purpose.SCREEN, Purpose.NOISE)
            and t.value(lab.objective.metric) is not None
            and self._is_ours(t.experiment)
        }

    def _finished(
        self, known: Mapping[str, Trial], reference: Trial, curve: Curve
    ) -> tuple[Finished, ...]:
        sign, metric = self.lab.objective.direction.sign, self.lab.objective.metric
        bar = reference.value(metric) or 0.0
        found = []
        for trial in known.values():
            other, value = self._curve(trial), trial.value(metric)
            if trial.id != reference.id and other is not None and value is not None:
                gain = sign * (value - bar)
                found.append(Finished(challenger=other, incumbent=curve, gain=gain))
        return tuple(found)

    def _is_ours(self, experiment: str) -> bool:
        if experiment not in self._ours:
            self._ours[experiment] = self.lab.foreign_author(experiment) is None
        return self._ours[experiment]

    def _curve(self, trial: Trial) -> Curve | None:
        """The stored curve of a finished trial."""
        if trial.id not in self._curves:
            file = trial.artifacts.get("curve.jsonl")
            path = self.lab.ledger.artifacts.path(file.sha256) if file else None
            self._curves[trial.id] = stored(path) if path else None
        return self._curves[trial.id]


def bends(program: Program, reference: Program) -> bool:
    """Whether two programs differ in a part that bends curves, or may for all the lab knows."""
    mine, theirs = catalogue.current(program), catalogue.current(reference)
    return any(
        mine.get(part) != theirs.get(part) or mine.get(part) == catalogue.EDITED
        for part in SCHEDULING
    )


def stored(path: Path) -> Curve | None:
    """The curve in a file that a trainer left; None where there is none in it."""
    points: list[tuple[float, float]] = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            point = json.loads(line)
        except ValueError:
            continue
        found = _point(point) if isinstance(point, dict) else None
        if found and (not points or found[0] > points[-1][0]):
            points.append(found)
    return _curve(points) if points else None


def _point(point: Mapping[str, object]) -> tuple[float, float] | None:
    """Budget fraction and loss of a reported point, or None."""
    progress, loss = point.get("progress"), point.get("loss")
    if not isinstance(progress, float) or not isinstance(loss, float):
        return None
    return (progress, loss) if 0 <= progress <= 1 else None


def _curve(points: list[tuple[float, float]]) -> Curve:
    return Curve(tuple(p for p, _ in points), tuple(loss for _, loss in points))
