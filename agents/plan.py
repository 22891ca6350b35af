"""How a campaign spends its budget: which rungs, how many seeds, what is kept back for the end."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nightlab.agents.promises import PAIRS, SCREENS
from nightlab.errors import UsageError
from nightlab.evals import meters, scorer
from nightlab.evals.task import Task
from nightlab.vocabulary import Objective, Purpose, Rung

CONFIRM_SHARE = 0.2
"""One confirmation of three pairs may take this much of the budget."""
SEARCH_SHARE = 0.5
"""What a campaign should have left for its search, where a coarse rung can give it."""
UNLIMITED_SECONDS = 24 * 3600.0
MOST_SEEDS = 256
SEED_RANGE = 900_000
_PURPOSE_CODES = {Purpose.NOISE: 1, Purpose.SCREEN: 1, Purpose.CONFIRM: 2, Purpose.AUDIT: 1}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The shape of a campaign, fixed at its start and stored with it."""

    screen: Rung
    confirm: Rung
    noise_trials: int
    """Baseline trials per rung before anything is judged."""
    workers: int
    scoring_seconds: float = 1.5
    """What a trial costs beside its training, roughly; replaced by what is measured as it runs."""

    @property
    def rungs(self) -> tuple[Rung, ...]:
        """The rungs in use, cheapest first, each once."""
        return (self.screen,) if self.screen == self.confirm else (self.screen, self.confirm)

    @property
    def uses(self) -> tuple[tuple[str, Rung], ...]:
        """What each rung is for."""
        return (("screen", self.screen), ("confirm", self.confirm))

    @property
    def noise_seconds(self) -> float:
        """Wall seconds until the noise floor is known."""
        per_rung = (rung.cpu_seconds + self.scoring_seconds for rung in self.rungs)
        return self.noise_trials * sum(per_rung) / self.workers

    @property
    def confirm_seconds(self) -> float:
        """Wall seconds of a confirmation of three pairs, hold-out included."""
        return 2 * PAIRS * (self.confirm.cpu_seconds + 2 * self.scoring_seconds) / self.workers

    @property
    def closing_seconds(self) -> float:
        """Wall seconds kept back to run the winner beside the baseline at the end."""
        return (
            self.noise_trials * (self.confirm.cpu_seconds + 2 * self.scoring_seconds) / self.workers
        )

    @property
    def fixed_seconds(self) -> float:
        """Wall seconds that the smallest campaign takes beside its search."""
        return self.noise_seconds + self.confirm_seconds + self.closing_seconds


def make(task: Task, objective: Objective, workers: int) -> Plan:
    """Screen on the cheapest rung; confirm on the largest of which a confirmation fits.

    A coarse rung does both where no constraint has to be decided and the others would leave less
    than half the time to the search.
    Raises:
        UsageError: the budget is too small for a noise floor and one confirmation.
    """
    budget = objective.budget
    screen = task.rungs[0]
    beside = task.scoring_seconds + sum(map(meters.seconds, objective.metrics))
    seconds = budget.seconds
    if seconds is None:
        seconds = UNLIMITED_SECONDS if budget.trials is None else _seconds_of(task, budget.trials)
    fitting = [
        r
        for r in task.rungs
        if _plan(screen, r, workers, beside).confirm_seconds <= CONFIRM_SHARE * seconds
    ]
    plan = _plan(screen, fitting[-1] if fitting else screen, workers, beside)
    short = budget.seconds and plan.fixed_seconds > (1 - SEARCH_SHARE) * budget.seconds
    if task.coarse and short and not objective.constraints:
        plan = _plan(task.coarse, task.coarse, workers, beside)
    if budget.seconds is not None and plan.fixed_seconds > budget.seconds:
        raise UsageError(
            f"{budget.seconds:.0f} s are too few for task {task.name} with {workers} worker(s): a "
            "noise floor, one confirmation and the closing comparison take about "
            f"{plan.fixed_seconds:.0f} s"
        )
    if budget.trials is not None and budget.trials < (least := least_trials(plan)):
        raise UsageError(
            f"{budget.trials} trials are too few: a noise floor, one confirmation and the closing "
            f"comparison take {least}"
        )
    return plan


def describe(plan: Plan) -> str:
    """What a campaign of this shape does and costs, in lines of plain text."""
    rungs = ", ".join(
        f"{use} on {r.name} ({r.cpu_seconds:g} CPU s a trial)" for use, r in plan.uses
    )
    facts = [
        f"{rungs}; {plan.workers} side by side",
        f"{plan.noise_trials} baselines a rung for the noise floor, {plan.noise_seconds:.0f} s",
        f"a confirmation takes 6 trials or more, {plan.confirm_seconds:.0f} s",
        f"kept back for the closing comparison: {plan.closing_seconds:.0f} s",
    ]
    return "\n".join(f"{'' if i else 'plan':12}{fact}" for i, fact in enumerate(facts))


def caveats(task: Task, objective: Objective, plan: Plan) -> list[str]:
    """What a person should know of how the metrics of a goal are measured on this task."""
    told = []
    if plan.screen == task.coarse:
        longer = _plan(task.rungs[0], task.rungs[0], plan.workers, plan.scoring_seconds)
        minutes = math.ceil(longer.fixed_seconds / (1 - SEARCH_SHARE) / 60)
        told.append(
            f"a short campaign: trials of {plan.screen.cpu_seconds:g} s show large gains only; "
            f"from {minutes} minutes on they train for {task.rungs[0].cpu_seconds:g} s"
        )
    windowed = scorer.make(task).shortest == 0
    for metric in sorted(objective.metrics):
        kind, _, length = metric.partition("@")
        if kind in ("prefill_ms", "decode_ms") and windowed:
            told.append(
                f"{metric}: programs of {task.name} read windows of at most {task.max_context} "
                f"tokens, so one more token behind {length} costs a pass over the last window"
            )
        if kind in meters.COUNTED:
            told.append(f"{metric}: counted in the sandbox, believed where CPU time bears it out")
    return told


def document(plan: Plan) -> dict[str, object]:
    """The same as :func:`describe`, of JSON's own types."""
    return {
        "screen": vars(plan.screen),
        "confirm": vars(plan.confirm),
        "noise_trials": plan.noise_trials,
        "workers": plan.workers,
        "noise_seconds": plan.noise_seconds,
        "confirm_seconds": plan.confirm_seconds,
        "closing_seconds": plan.closing_seconds,
    }


def least_trials(plan: Plan) -> int:
    """Trials of the smallest campaign that can confirm something."""
    return plan.noise_trials * len(plan.rungs) + SCREENS + 2 * PAIRS + plan.noise_trials


def _plan(screen: Rung, confirm: Rung, workers: int, beside: float) -> Plan:
    return Plan(
        screen=screen,
        confirm=confirm,
        noise_trials=5 if screen == confirm else 4,
        workers=workers,
        scoring_seconds=beside,
    )


def _seconds_of(task: Task, trials: int) -> float:
    return trials * (task.rungs[0].cpu_seconds + task.scoring_seconds)


def seeds(
    campaign_seed: int, purpose: Purpose, count: int, *, confirmation: int = 0
) -> Sequence[int]:
    """Seeds of the evaluator's choice: the same for both arms of a pair, fresh per confirmation.

    Asking for more only adds to the end. Screening uses the first seeds of the noise floor, so
    that the baseline is measured on them. Each confirmation draws from a range of its own: no
    trial that helped to choose a program can be among those that measure its gain.
    """
    entropy = [campaign_seed, _PURPOSE_CODES[purpose], confirmation]
    drawn = np.random.default_rng(entropy).choice(SEED_RANGE, MOST_SEEDS, replace=False)
    return [100_000 + SEED_RANGE * confirmation + int(seed) for seed in drawn[:count]]
