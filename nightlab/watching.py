"""A running campaign as the snapshot that :mod:`nightlab.live` draws."""

import time

from nightlab.agents.lab import Lab
from nightlab.live import Activity, Snapshot
from nightlab.memory.report.summary import summarise
from nightlab.vocabulary import Direction

LOG_LINES = 5


def snapshot(lab: Lab) -> Snapshot:
    """What the ledger and the board say right now."""
    summary = summarise(lab.ledger, lab.campaign.id)
    best, objective, spent = summary.best, lab.objective, summary.spent
    noise = summary.noise.get(summary.rung or "")
    at = time.monotonic()
    return Snapshot(
        campaign=lab.campaign.id,
        goal=lab.campaign.goal,
        task=lab.bench.task.name,
        tier=lab.campaign.tier,
        proposer=lab.campaign.proposer,
        stage=lab.board.stage,
        metric=objective.metric,
        direction=objective.direction,
        baseline=summary.baseline.value if summary.baseline else None,
        noise_sd=noise.value if noise else None,
        best=best.level.value if best and best.level else None,
        best_experiment=best.experiment.id if best else "",
        best_verdict=best.experiment.verdict if best else None,
        gain_percent=best.gain_percent.value if best and best.gain_percent else None,
        curve=_best_so_far(lab),
        trials=spent.trials,
        trials_total=objective.budget.trials,
        counts=summary.counts,
        seconds=spent.wall_seconds,
        seconds_total=objective.budget.seconds,
        eta_seconds=_eta(lab, spent.wall_seconds, spent.trials),
        activities={
            name: Activity(doing=a.doing, edits=a.edits, progress=a.progress, seconds=at - a.since)
            for name, a in lab.board.activities().items()
        },
        log=tuple(e.message for e in lab.ledger.events(lab.campaign.id, limit=LOG_LINES)),
    )


def _best_so_far(lab: Lab) -> tuple[float, ...]:
    """The best screening value after each trial of the low rung."""
    pick = min if lab.objective.direction is Direction.LOWER else max
    curve: list[float] = []
    for dot in lab.ledger.dots(lab.campaign.id):
        if dot.value is not None and dot.rung == lab.plan.screen.name:
            curve.append(dot.value if not curve else pick(curve[-1], dot.value))
    return tuple(curve)


def _eta(lab: Lab, seconds: float, trials: int) -> float | None:
    """Seconds to the end by whichever bound is nearer; None while nothing can be said."""
    budget = lab.objective.budget
    left = [budget.seconds - seconds] if budget.seconds is not None else []
    if budget.trials is not None and trials:
        left.append((budget.trials - trials) * seconds / trials)
    return max(0.0, min(left)) if left else None
