"""Spectra of trials: read from what they left, set beside the incumbent's, told to whoever asks.

A trial leaves two files: the trainer's ``spectra.jsonl``, self-reported, and ``probes.json``, what
an oracle answered on secret batches and whether the two agree. Both come from processes that run
foreign code. They explain; they never score.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from nightlab.agents.lab import Lab
from nightlab.agents.policy.interface import Outcome, Record
from nightlab.agents.probing import LOG, PROBES
from nightlab.errors import UsageError
from nightlab.evals.nerve import log, shaping
from nightlab.evals.nerve.log import Log
from nightlab.evals.nerve.readings import Reading, parse
from nightlab.evals.nerve.table import Reference, compact_table, reference, z_scores
from nightlab.evals.nerve.thirds import THIRDS, Metric, Summary, Third, summaries
from nightlab.memory.artifacts import Artifacts
from nightlab.memory.records import Trial
from nightlab.vocabulary import Integrity

FEATURES: Mapping[Third, str] = {
    "early": "nerve_first",
    "mid": "nerve_middle",
    "late": "nerve_last",
}
"""Names of the policy's features."""
Cell = tuple[Third, Metric]


@dataclass(frozen=True)
class Comparison:
    """An experiment's spectra beside its incumbent's, at one step that both measured."""

    experiment: str
    against: str
    rung: str
    trials: tuple[Trial, ...]
    """The experiment's, whose mean ``now`` is."""
    now: Summary
    before: Summary | None
    """One report earlier."""
    loss: float | None
    """Mean training loss at the step, nats; self-reported as the rest is."""
    reference: Reference | None
    """The incumbent's; None where no step is shared."""
    borrowed: bool = False
    """Whether the deviations are the baseline's, for want of incumbent trials."""

    def scores(self) -> Mapping[Cell, float]:
        """z-scores against the incumbent; empty where it has another (N, D) or is not known."""
        if self.reference is None or self.reference.size != self.now.size:
            return {}
        return z_scores(self.now, self.reference)

    def table(self) -> str:
        """The compact table as text for a proposer."""
        against = f"beside the incumbent {self.against}"
        if self.borrowed:
            against += " (z in the baseline's seed-to-seed deviations)"
        head = f"{self.experiment} on {self.rung}, mean of {len(self.trials)} trials, {against}"
        loss = math.nan if self.loss is None else self.loss
        return f"{head}\n" + compact_table(
            self.now, loss=loss, previous=self.before, against=self.reference
        )


def read(artifacts: Artifacts, trial: Trial) -> Log | None:
    """What a trial's trainer reported; None where there is nothing that can be read."""
    file = trial.artifacts.get(LOG)
    if file is None:
        return None
    try:
        return _log(artifacts.folder, file.sha256)
    except UsageError:
        return None


@lru_cache(maxsize=512)
def _log(folder: Path, sha256: str) -> Log:
    return log.read(Artifacts(folder).get(sha256))


def recomputed(artifacts: Artifacts, trial: Trial) -> list[tuple[Reading, ...]]:
    """What an oracle answered about the trained weights, one sequence for each probe batch."""
    file = trial.artifacts.get(PROBES)
    if file is None:
        return []
    return [parse(batch) for batch in json.loads(artifacts.get(file.sha256))["batches"]]


def compare(lab: Lab, experiment: str, against: str, rung: str | None = None) -> Comparison | None:
    """An experiment beside an incumbent on one rung (default: the screening rung).

    None where no trial of the experiment left readable spectra. The step is the last one that all
    of its trials and the incumbent's measured; z-scores fall back on the baseline's deviations
    where the incumbent has a single trial.
    """
    rung = rung or lab.plan.screen.name
    mine = _runs(lab, experiment, rung)
    if not mine:
        return None
    theirs = _runs(lab, against, rung)
    step = _shared_step(mine, theirs)
    now, before = _mean_at([run.reports for run in mine], step)
    beside, borrowed = _reference(lab, [run.reports for run in theirs], rung, step)
    return Comparison(
        experiment=experiment,
        against=against,
        rung=rung,
        trials=tuple(run.trial for run in mine),
        now=now,
        before=before,
        loss=_loss(lab, [run.trial for run in mine], step),
        reference=beside,
        borrowed=borrowed,
    )


def at_rest(lab: Lab, experiment: str) -> Summary | None:
    """The oracle's spectra of an experiment's trained programs on the screening rung, their mean.

    None where nothing was recomputed, or where what was reported disagrees with it.
    """
    found: list[Summary] = []
    for trial in trials_of(lab, experiment, lab.plan.screen.name):
        measured = trial.measurement
        if measured is not None and measured.integrity is Integrity.CLEAN:
            for batch in recomputed(lab.ledger.artifacts, trial):
                found += [replace(each, step=0) for each in summaries(batch)]
    return _mean(found) if found else None


def gains(lab: Lab, experiment: str) -> dict[str, float]:
    """The policy's features: log of the PR gain over the baseline's by depth third, at the end of
    the screening budget; empty where there are none, or where (N, D) differ."""
    mine, base = at_rest(lab, experiment), at_rest(lab, lab.baseline)
    if experiment == lab.baseline or mine is None or base is None or mine.size != base.size:
        return {}
    pairs = {
        name: (mine.values.get((where, "log_gain")), base.values.get((where, "log_gain")))
        for where, name in FEATURES.items()
    }
    return {
        name: round(ours - theirs, 4)
        for name, (ours, theirs) in pairs.items()
        if ours is not None and theirs is not None
    }


def bonus(lab: Lab, experiment: str, parent: str) -> float:
    """The shaping of one step of the search: what the potential of the spectra rose by, times a
    small weight. Only spectra that an oracle recomputed count."""
    return shaping.shaping(at_rest(lab, parent), at_rest(lab, experiment))


def shaped(records: Sequence[Record], bonuses: Mapping[str, float]) -> list[Record]:
    """The records with capped bonuses (by decision id) added to the rewards of the valid ones.

    No two unequal rewards change places, whatever the bonuses are.
    """
    valid = [record for record in records if record.outcome is Outcome.VALID]
    rewards = shaping.shaped(
        [record.reward or 0.0 for record in valid],
        [bonuses.get(record.decision.id, 0.0) for record in valid],
    )
    changed = {
        id(record): replace(record, reward=reward)
        for record, reward in zip(valid, rewards, strict=True)
    }
    return [changed.get(id(record), record) for record in records]


def told(lab: Lab, experiments: Sequence[str]) -> str:
    """The compact tables of some experiments beside the incumbent, for a proposer's prompt."""
    found = [compare(lab, name, lab.incumbent()) for name in dict.fromkeys(experiments)]
    return "\n\n".join(each.table() for each in found if each)


class _Run(NamedTuple):
    trial: Trial
    reports: tuple[Summary, ...]


def trials_of(lab: Lab, experiment: str, rung: str) -> list[Trial]:
    """Finished trials of an experiment's program on a rung; above the screening rung those that
    a challenger asked for too."""
    screening = rung == lab.plan.screen.name
    program = lab.ledger.experiment(experiment).program
    some = (
        lab.ledger.trials(experiment=experiment)
        if screening
        else lab.ledger.trials(campaign=lab.campaign.id)
    )
    return [t for t in some if t.rung == rung and t.program == program and t.run is not None]


def _runs(lab: Lab, experiment: str, rung: str) -> list[_Run]:
    found = []
    for trial in trials_of(lab, experiment, rung):
        seen = read(lab.ledger.artifacts, trial)
        if seen and (reports := summaries(seen.readings)):
            found.append(_Run(trial, reports))
    return found


def _shared_step(mine: Sequence[_Run], theirs: Sequence[_Run]) -> int:
    """Of the first run's steps the last that most runs measured."""
    counts = Counter(report.step for run in (*mine, *theirs) for report in run.reports)
    return max((r.step for r in mine[0].reports), key=lambda step: (counts[step], step))


def _mean_at(runs: Sequence[Sequence[Summary]], step: int) -> tuple[Summary, Summary | None]:
    """Mean over runs at a step, and at the report before it in the first run."""
    steps = [report.step for report in runs[0]]
    at = steps.index(step)
    now = _mean([r for run in runs for r in run if r.step == step])
    if at == 0:
        return now, None
    return now, _mean([r for run in runs for r in run if r.step == steps[at - 1]])


def _mean(reports: Sequence[Summary]) -> Summary:
    """The mean of reports of the first one's size."""
    same = [r for r in reports if r.size == reports[0].size]
    cells = set.intersection(*(set(r.values) for r in same))
    values = {cell: sum(r.values[cell] for r in same) / len(same) for cell in cells}
    return replace(same[0], values=values)


def _reference(
    lab: Lab, runs: Sequence[Sequence[Summary]], rung: str, step: int
) -> tuple[Reference | None, bool]:
    try:
        mine = reference(runs, step)
    except UsageError:
        return None, False
    if mine.deviation:
        return mine, False
    try:
        base = reference([run.reports for run in _runs(lab, lab.baseline, rung)], step)
    except UsageError:
        return mine, False
    if base.size != mine.size or not base.deviation:
        return mine, False
    return replace(mine, deviation=base.deviation), True


def _loss(lab: Lab, trials: Sequence[Trial], step: int) -> float | None:
    logs = [read(lab.ledger.artifacts, trial) for trial in trials]
    found = [
        report.loss
        for each in logs
        if each
        for report in each.reports
        if report.step == step and report.loss is not None
    ]
    return sum(found) / len(found) if found else None


def cells(found: Comparison) -> dict[str, dict[str, dict[str, float | None]]]:
    """The table as a document: third, metric, then value, change and z."""
    scores = found.scores()
    before = found.before if found.before and found.before.size == found.now.size else None
    document: dict[str, dict[str, dict[str, float | None]]] = {}
    for where in THIRDS:
        for (third, metric), value in sorted(found.now.values.items()):
            if third != where:
                continue
            earlier = before.values.get((third, metric)) if before else None
            document.setdefault(where, {})[metric] = {
                "value": _short(value),
                "change": None if earlier is None else _short(value - earlier),
                "z": _short(scores[third, metric]) if (third, metric) in scores else None,
            }
    return document


def _short(value: float) -> float:
    return float(f"{value:.4g}")
