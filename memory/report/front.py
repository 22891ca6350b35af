"""The Pareto front: which programs are not beaten on every metric the goal names at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from nightlab.memory.ledger import Ledger
from nightlab.memory.records import Arm, Experiment
from nightlab.vocabulary import Direction, Ending, Integrity, Objective, Verdict

MEASURED = (Verdict.SCREENED, Verdict.CONFIRMED, Verdict.DISCARDED)
"""Verdicts of programs whose measurements are trusted; what the goal does not want may still be on
the front."""


@dataclass(frozen=True)
class Point:
    """One program's means on a rung, in the order of the metrics."""

    experiment: Experiment
    values: tuple[float, ...]
    trials: tuple[str, ...]
    on_front: bool


@dataclass(frozen=True)
class Front:
    """Programs that were measured, the baseline among them, on the cheapest rung."""

    rung: str
    metrics: tuple[str, ...]
    """The goal's own first."""
    directions: tuple[Direction, ...]
    """Which way each of them is better."""
    bounds: Mapping[str, float]
    """The goal's constraints, in their metrics' units; relative ones need a baseline."""
    points: tuple[Point, ...]


def axes(objective: Objective) -> dict[str, Direction]:
    """The metrics a goal names, its own first, and which way each is better."""
    named = {objective.metric: objective.direction}
    for bound in objective.constraints:
        better = Direction.LOWER if bound.op == "<=" else Direction.HIGHER
        named.setdefault(bound.metric, better)
    return named


def front(ledger: Ledger, campaign: str) -> Front | None:
    """None where the goal names one metric only, or nothing has been measured."""
    named = axes(ledger.campaign(campaign).objective)
    rungs = ledger.rungs(campaign)
    if len(named) < 2 or not rungs:
        return None
    found = []
    for experiment in ledger.experiments(campaign):
        if experiment.number and experiment.verdict not in MEASURED:
            continue
        values, trials = _means(ledger, experiment, rungs[0], tuple(named))
        if len(values) == len(named):
            found.append((experiment, values, trials))
    signs = tuple(direction.sign for direction in named.values())
    points = tuple(
        Point(e, v, t, not any(_beats(other, v, signs) for _, other, _ in found))
        for e, v, t in found
    )
    if not points:
        return None
    bounds = _bounds(ledger.campaign(campaign).objective, points, tuple(named))
    return Front(rungs[0], tuple(named), tuple(named.values()), bounds, points)


def _bounds(
    objective: Objective, points: Sequence[Point], metrics: Sequence[str]
) -> dict[str, float]:
    baseline = next((point for point in points if point.experiment.number == 0), None)
    found = {}
    for bound in objective.constraints:
        if not bound.relative:
            found[bound.metric] = bound.value
        elif baseline is not None:
            found[bound.metric] = bound.bound(baseline.values[metrics.index(bound.metric)])
    return found


def table(shown: Front) -> str:
    """The front as Markdown, best first by the goal's own metric as the ledger has it."""
    lines = [
        f"Means on the {shown.rung} rung, over the trials named. A program is on the front when no "
        "other is at least as good on every metric here and better on one; noise is not counted, "
        "so neighbours may change places.",
        "",
        f"| experiment | verdict | {' | '.join(shown.metrics)} | on the front | trials |",
        f"| --- | --- |{' --- |' * (len(shown.metrics) + 2)}",
    ]
    for point in shown.points:
        if not point.on_front and point.experiment.verdict is Verdict.DISCARDED:
            continue
        verdict = point.experiment.verdict if point.experiment.number else "baseline"
        values = " | ".join(f"{value:.5g}" for value in point.values)
        mark = "yes" if point.on_front else ""
        trials = ", ".join(point.trials)
        lines.append(f"| {point.experiment.id} | {verdict} | {values} | {mark} | {trials} |")
    return "\n".join(lines)


def _means(
    ledger: Ledger, experiment: Experiment, rung: str, metrics: Sequence[str]
) -> tuple[tuple[float, ...], tuple[str, ...]]:
    usable = [
        trial
        for trial in ledger.trials(experiment=experiment.id)
        if trial.rung == rung
        and trial.arm is Arm.CANDIDATE
        and trial.run is not None
        and trial.run.ending is Ending.FINISHED
        and trial.measurement is not None
        and trial.measurement.integrity is not Integrity.TAMPERED
    ]
    columns = [[v for t in usable if (v := t.value(metric)) is not None] for metric in metrics]
    known = tuple(fmean(column) for column in columns if column)
    return known, tuple(trial.id for trial in usable)


def _beats(one: Sequence[float], other: Sequence[float], signs: Sequence[int]) -> bool:
    """At least as good everywhere and better somewhere."""
    gains = [sign * (a - b) for a, b, sign in zip(one, other, signs, strict=True)]
    return min(gains) >= 0 and max(gains) > 0
