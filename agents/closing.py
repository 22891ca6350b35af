"""The end of a campaign: the winner beside the baseline, on the baseline's own seeds.

A chain of confirmed gains flatters itself. What is reported instead is one paired comparison: the
final program is trained on the seeds of the noise floor, which it has never seen at that rung, and
both are scored once on the hold-out. ``nightlab.memory.report.standing`` reads the result.
"""

from concurrent.futures import ThreadPoolExecutor

from nightlab.agents.judge import Pair, better, look_at_holdout
from nightlab.agents.lab import Lab
from nightlab.memory.report.standing import Best, stand
from nightlab.vocabulary import Purpose


def compare(lab: Lab) -> None:
    """Train the incumbent on the baseline's seeds and look at the hold-out; idempotent."""
    winner = lab.incumbent()
    if winner == lab.baseline:
        return
    seeds = lab.seeds(Purpose.NOISE, lab.plan.noise_trials)
    lab.board.show(winner, f"closing comparison on {lab.plan.confirm.name}")
    with ThreadPoolExecutor(lab.plan.workers, thread_name_prefix="closing") as pool:
        jobs = [pool.submit(lab.trial, winner, lab.plan.confirm, s, Purpose.AUDIT) for s in seeds]
        for job in jobs:
            job.result()
    look_at_holdout(lab, pairs(lab, winner), winner, lab.baseline)
    lab.board.clear(winner)


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


def best(lab: Lab) -> Best | None:
    """The incumbent beside the baseline, from what has been measured so far."""
    campaign = lab.ledger.campaign(lab.campaign.id)
    return stand(lab.ledger, campaign, lab.plan.confirm.name)


def target_met(lab: Lab) -> bool:
    """Whether the confirmed winner reaches the objective's target; False without a target."""
    objective = lab.objective
    if objective.target_percent is None and objective.target_value is None:
        return False
    found = best(lab)
    if found is None or found.experiment.id == lab.baseline or found.level is None:
        return False
    if objective.target_value is not None:
        return better(objective, found.level.value, objective.target_value)
    gain = found.gain_percent
    return gain is not None and gain.value >= (objective.target_percent or 0.0)
