"""The best program beside the baseline, by trials that were not picked for their score.

First choice is the closing comparison: audit trials of the best program on the seeds of the
baseline's noise trials, so that the two are paired. Before it is run, the best program's
confirmation stands beside the baseline's noise trials, on other seeds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nightlab.memory.ledger import Ledger
from nightlab.memory.records import Campaign, Experiment, Trial
from nightlab.memory.report import intervals
from nightlab.memory.report.intervals import Interval
from nightlab.vocabulary import Purpose

Value = Callable[[Trial], float | None]


@dataclass(frozen=True, kw_only=True)
class Best:
    """The incumbent beside the baseline. Percentages are of the baseline's mean; + is better."""

    experiment: Experiment
    level: Interval | None
    """On the search split."""
    gain_percent: Interval | None
    holdout: Interval | None
    holdout_gain_percent: Interval | None
    """None where the two have no hold-out scores on common seeds."""
    pairs: int
    """Of the closing comparison; 0 before it."""
    edits: tuple[str, ...]
    """All edits from the baseline to it."""


def stand(ledger: Ledger, campaign: Campaign, rung: str | None) -> Best | None:
    """Read how the incumbent stands on a rung; None before there is a baseline to stand by."""
    baseline = ledger.baseline(campaign.id)
    if campaign.incumbent is None or baseline is None or rung is None:
        return None
    incumbent = ledger.experiment(campaign.incumbent)
    metric, sign = campaign.objective.metric, campaign.objective.direction.sign

    def on_search(trial: Trial) -> float | None:
        return trial.value(metric)

    def on_holdout(trial: Trial) -> float | None:
        return trial.holdout.metrics.get(metric) if trial.holdout else None

    theirs = _of(ledger, baseline, rung, Purpose.NOISE)
    ours = theirs
    closing: list[tuple[Trial, Trial]] = []
    gain: Interval | None = Interval(value=0.0, low=None, high=None)
    held = None
    if incumbent.number > 0:
        closing = _pairs(_of(ledger, incumbent, rung, Purpose.AUDIT), theirs, on_search)
        ours = [pair[0] for pair in closing] or _of(ledger, incumbent, rung, Purpose.CONFIRM)
        gain = _paired(closing, on_search, sign) or _apart(ours, theirs, on_search, sign)
        held = _paired(_pairs(ours, theirs, on_holdout), on_holdout, sign)
    line = ledger.lineage(incumbent.id)
    return Best(
        experiment=incumbent,
        level=level(ours, on_search),
        gain_percent=gain,
        holdout=level(ours, on_holdout),
        holdout_gain_percent=held,
        pairs=len(closing),
        edits=tuple(edit for experiment in line for edit in experiment.edits),
    )


def level(trials: Sequence[Trial], value: Value) -> Interval | None:
    """Mean over the trials that have the value."""
    known = [(trial.id, found) for trial in trials if (found := value(trial)) is not None]
    return intervals.mean([found for _, found in known], [name for name, _ in known])


def _of(ledger: Ledger, experiment: Experiment, rung: str, purpose: Purpose) -> list[Trial]:
    """Trials of the experiment's own program on a rung, for a purpose."""
    return [
        trial
        for trial in ledger.trials(experiment=experiment.id)
        if trial.rung == rung
        and trial.purpose is purpose
        and trial.program == experiment.program
        and trial.run is not None
    ]


def _pairs(
    ours: Sequence[Trial], theirs: Sequence[Trial], value: Value
) -> list[tuple[Trial, Trial]]:
    """Trials on common seeds where both have the value; nothing below two pairs."""
    known = {trial.seed: trial for trial in theirs if value(trial) is not None}
    found = [
        (trial, known[trial.seed])
        for trial in ours
        if trial.seed in known and value(trial) is not None
    ]
    return found if len(found) >= 2 else []


def _paired(pairs: Sequence[tuple[Trial, Trial]], value: Value, sign: int) -> Interval | None:
    both = [(value(ours), value(theirs)) for ours, theirs in pairs]
    known = [(a, b) for a, b in both if a is not None and b is not None]
    if not known:
        return None
    scale = abs(sum(b for _, b in known) / len(known))
    return intervals.mean([100 * sign * (a - b) / scale for a, b in known]) if scale else None


def _apart(
    ours: Sequence[Trial], theirs: Sequence[Trial], value: Value, sign: int
) -> Interval | None:
    a = [found for trial in ours if (found := value(trial)) is not None]
    b = [found for trial in theirs if (found := value(trial)) is not None]
    scale = abs(sum(b) / len(b)) if b else 0.0
    if scale == 0:
        return None
    percent = 100 * sign / scale
    return intervals.difference([x * percent for x in a], [x * percent for x in b])
