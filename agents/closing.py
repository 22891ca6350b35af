"""The end of a campaign: the winner beside the baseline, on the baseline's own seeds.

A chain of confirmed gains flatters itself. What is reported instead is one paired comparison: the
final program is trained on the seeds of the noise floor, which it has never seen at that rung, and
both are scored once on the hold-out.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from nightlab.agents.judge import Pair, Paired, gain, look_at_holdout
from nightlab.agents.lab import Lab
from nightlab.vocabulary import Purpose


@dataclass(frozen=True, kw_only=True)
class Standing:
    """The winner against the baseline. Gains are positive when better."""

    experiment: str
    value: float
    """The winner's mean, metric's unit."""
    gain_percent: float
    """Of the baseline's mean."""
    gain: Paired | None
    """From the closing comparison; None before it."""
    holdout: Paired | None = None


def compare(lab: Lab) -> Standing | None:
    """Train the incumbent on the baseline's seeds and look at the hold-out; idempotent."""
    winner = lab.incumbent()
    if winner == lab.baseline:
        return None
    seeds = lab.seeds(Purpose.NOISE, lab.plan.noise_trials)
    with ThreadPoolExecutor(lab.plan.workers, thread_name_prefix="closing") as pool:
        jobs = [pool.submit(lab.trial, winner, lab.plan.confirm, s, Purpose.AUDIT) for s in seeds]
        for job in jobs:
            job.result()
    return standing(lab)


def pairs(lab: Lab, winner: str) -> list[Pair]:
    """The winner's closing trials beside the baseline's on the same seeds, where both ran."""
    rung, metric = lab.plan.confirm.name, lab.objective.metric
    base = {
        t.seed: t
        for t in lab.ledger.trials(experiment=lab.baseline)
        if t.rung == rung and t.purpose is Purpose.NOISE and t.value(metric) is not None
    }
    return [
        Pair(t, base[t.seed])
        for t in lab.ledger.trials(experiment=winner)
        if t.rung == rung
        and t.purpose is Purpose.AUDIT
        and t.seed in base
        and t.value(metric) is not None
    ]


def standing(lab: Lab) -> Standing | None:
    """The winner against the baseline from what has been measured; None without a winner.

    Before the closing comparison the value is that of the winner's confirmation, on other seeds.
    """
    winner = lab.incumbent()
    if winner == lab.baseline:
        return None
    rung, metric = lab.plan.confirm.name, lab.objective.metric
    noise = [v.value for v in lab.ledger.noise_values(lab.campaign.id) if v.rung == rung]
    closing = pairs(lab, winner)
    paired = holdout = None
    if len(closing) >= 2:
        gains = [gain(lab.objective, p.challenger, p.incumbent) for p in closing]
        values = [v for p in closing if (v := p.challenger.value(metric)) is not None]
        paired = Paired.of(gains, values)
        holdout = look_at_holdout(lab, closing, winner, lab.baseline)
        value, difference = paired.challenger, paired.mean
    else:
        confirmed = [
            v
            for t in lab.ledger.trials(experiment=winner)
            if t.purpose is Purpose.CONFIRM
            and t.program == lab.program_of(winner).id
            and (v := t.value(metric)) is not None
        ]
        value = float(np.mean(confirmed))
        difference = lab.objective.direction.sign * (value - float(np.mean(noise)))
    return Standing(
        experiment=winner,
        value=value,
        gain_percent=100 * difference / abs(float(np.mean(noise))),
        gain=paired,
        holdout=holdout,
    )
