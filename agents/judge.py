"""What the measurements say: noise floors, screening, confirmation, constraints, the hold-out.

Every number is read from the ledger's trials, so judging again after a crash gives the same
answer. A *gain* is a paired difference in the objective's direction: positive is better.
"""

import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy import stats

from nightlab.agents import borne
from nightlab.agents.lab import Lab, Watch
from nightlab.agents.plan import Plan
from nightlab.evals.statistics import (
    FalseKeepBudget,
    Judgement,
    NoiseFloor,
    PairedRule,
    PairedTest,
    Screening,
    ScreenRule,
    lower_confidence_bound,
    screen,
)
from nightlab.memory.records import Arm, Campaign, Estimate, Repeat, Trial
from nightlab.vocabulary import (
    Direction,
    Ending,
    Integrity,
    Objective,
    Purpose,
    Rung,
    Split,
)

RULE = PairedRule()
SCREEN_RULE = ScreenRule()
BUDGET = FalseKeepBudget()
FAILED = -math.inf
"""The gain of a trial that left no score."""


class Trials(Protocol):
    """Where trials are read from: a ledger, or what was read of one before."""

    def trials(
        self, *, campaign: str | None = None, experiment: str | None = None
    ) -> list[Trial]: ...

    def noise_values(self, campaign: str) -> list[Repeat]: ...


class Measured(Protocol):
    """A campaign's measurements, running (:class:`Lab`) or long over."""

    @property
    def ledger(self) -> Trials: ...
    @property
    def campaign(self) -> Campaign: ...
    @property
    def plan(self) -> Plan: ...
    @property
    def objective(self) -> Objective: ...
    @property
    def baseline(self) -> str: ...


@dataclass(frozen=True)
class Failure:
    """Why a trial has no usable score."""

    rejected: bool
    """An integrity probe failed; otherwise the program crashed or passed a limit."""
    reason: str


def failure(trial: Trial) -> Failure | None:
    """What went wrong with a trial, or None if it was measured."""
    if trial.run is not None and trial.run.ending is not Ending.FINISHED:
        return Failure(False, f"{trial.run.ending}: {trial.run.reason}")
    if trial.measurement is None:
        return Failure(False, "it was not measured")
    if trial.measurement.integrity is Integrity.TAMPERED:
        return Failure(True, "; ".join(trial.measurement.reasons))
    if not trial.measurement.metrics:
        return Failure(False, "; ".join(trial.measurement.reasons) or "no metrics")
    return None


def gain(objective: Objective, challenger: Trial, incumbent: Trial) -> float:
    """Paired gain on one seed; minus infinity where the challenger has no score."""
    value, other = challenger.value(objective.metric), incumbent.value(objective.metric)
    if value is None or other is None:
        return FAILED if value is None else math.inf
    return objective.direction.sign * (value - other)


def noise_floor(lab: Measured, rung: Rung, but: str | None = None) -> NoiseFloor:
    """The baseline's spread on a rung, refined by the pairs of confirmations.

    ``but``: an experiment whose own pairs must not count, because they are about to be tested.

    Raises:
        UsageError: fewer than three baseline trials on the rung were usable.
    """
    values = [v.value for v in lab.ledger.noise_values(lab.campaign.id) if v.rung == rung.name]
    floor = NoiseFloor.measure(rung.name, values)
    return floor.with_pairs(*_confirmations(lab, but)) if rung == lab.plan.confirm else floor


def _confirmations(lab: Measured, but: str | None) -> list[list[float]]:
    """The finite gains of every confirmation of the campaign but one experiment's."""
    trials = [
        t
        for t in lab.ledger.trials(campaign=lab.campaign.id)
        if t.purpose is Purpose.CONFIRM and t.experiment != but
    ]
    names = sorted({t.experiment for t in trials})
    gains = [_gains(lab.objective, [t for t in trials if t.experiment == name]) for name in names]
    return [[g for g in one if math.isfinite(g)] for one in gains]


@dataclass(frozen=True)
class Pair:
    """Two finished trials on one seed."""

    challenger: Trial
    incumbent: Trial


def pairs_of(trials: Sequence[Trial]) -> list[Pair]:
    """The seeds that both arms have finished, in the order of the challenger's trials."""
    done = [t for t in trials if t.run is not None]
    incumbent = {t.seed: t for t in done if t.arm is Arm.INCUMBENT}
    challengers = [t for t in done if t.arm is Arm.CANDIDATE and t.seed in incumbent]
    return [Pair(t, incumbent[t.seed]) for t in challengers]


def _gains(objective: Objective, trials: Sequence[Trial]) -> list[float]:
    return [gain(objective, pair.challenger, pair.incumbent) for pair in pairs_of(trials)]


def screening_seed(lab: Lab, index: int) -> int:
    """The index-th seed of screening, the same for everybody."""
    return lab.seeds(Purpose.SCREEN, index + 1)[index]


def screening_trial(lab: Lab, experiment: str, index: int, watch: Watch | None = None) -> Trial:
    """The experiment's screening trial on the index-th screening seed, run if it is not there."""
    purpose = Purpose.NOISE if experiment == lab.baseline else Purpose.SCREEN
    seed = screening_seed(lab, index)
    return lab.trial(experiment, lab.plan.screen, seed, purpose, watch=watch)


def screening(
    lab: Lab, experiment: str, against: str, count: int, rule: ScreenRule = SCREEN_RULE
) -> Screening:
    """Judge the first ``count`` screening trials against the incumbent's on the same seeds."""
    gains = [
        gain(lab.objective, screening_trial(lab, experiment, i), screening_trial(lab, against, i))
        for i in range(count)
    ]
    return screen(gains, noise_floor(lab, lab.plan.screen), rule)


def screening_gain(lab: Lab, experiment: str, against: str) -> float | None:
    """Mean screening gain over another experiment on common seeds; None without a finite one."""

    def trials(of: str) -> dict[int, Trial]:
        screened = (Purpose.SCREEN, Purpose.NOISE)
        found = lab.ledger.trials(experiment=of, rung=lab.plan.screen.name)
        return {t.seed: t for t in found if t.purpose in screened and t.arm is Arm.CANDIDATE}

    mine, theirs = trials(experiment), trials(against)
    gains = [gain(lab.objective, mine[s], theirs[s]) for s in mine if s in theirs]
    finite = [one for one in gains if math.isfinite(one)]
    return float(np.mean(finite)) if finite else None


def reward(lab: Measured, trials: Sequence[Trial]) -> float | None:
    """Lower confidence bound of the screening gain over the *baseline*: what the policy ranks by.

    One scale for the whole campaign, whoever the incumbent was at the time. A program that breaks
    a constraint ranks below every one that keeps them.
    """
    rung = lab.plan.screen
    mine = {t.seed: t for t in trials if t.rung == rung.name and t.arm is Arm.CANDIDATE}
    base = {
        t.seed: t
        for t in lab.ledger.trials(experiment=lab.baseline)
        if t.rung == rung.name and t.purpose is Purpose.NOISE
    }
    gains = [gain(lab.objective, mine[s], base[s]) for s in mine if s in base]
    if not gains or not all(math.isfinite(g) for g in gains):
        return None
    floor = noise_floor(lab, rung)
    bound = lower_confidence_bound(gains, floor, RULE)
    broken = broken_constraints(lab, list(mine.values()))
    return bound if not broken else min(bound, 0.0) - 10 * floor.paired_sd * len(broken)


def broken_constraints(lab: Measured, trials: Sequence[Trial]) -> list[str]:
    """The objective's constraints that the mean of these trials breaks, in words; and a count of
    its own that they do not bear out."""
    mine, base = _beside_baseline(lab, trials)
    broken = []
    for constraint in lab.objective.constraints:
        values = [v for t in mine if (v := t.value(constraint.metric)) is not None]
        theirs = [v for t in base if (v := t.value(constraint.metric)) is not None]
        if not theirs:
            continue
        if not values:
            broken.append(f"{constraint} (not measured: the program lacks what it takes)")
            continue
        measured, baseline = float(np.mean(values)), float(np.mean(theirs))
        if not constraint.holds(measured, baseline):
            broken.append(f"{constraint} (measured {measured:g}, the baseline {baseline:g})")
    if doubt := borne.unborne(lab.objective.metrics, mine, base):
        broken.append(doubt)
    return broken


def _beside_baseline(
    lab: Measured, trials: Sequence[Trial]
) -> tuple[Sequence[Trial], Sequence[Trial]]:
    """These trials and the baseline's on the same rungs: on the same seeds wherever both were run
    on one, because most of what differs from trial to trial is the seed's."""
    rungs = {t.rung for t in trials}
    noise = [t for t in lab.ledger.trials(experiment=lab.baseline) if t.purpose is Purpose.NOISE]
    rerun = [
        other
        for name in {t.experiment for t in trials}
        for other in lab.ledger.trials(experiment=name)
        if other.arm is Arm.INCUMBENT and noise and other.program == noise[0].program
    ]
    base = [t for t in (*noise, *rerun) if t.rung in rungs and t.run is not None]
    places = {(t.rung, t.seed) for t in trials} & {(t.rung, t.seed) for t in base}
    if not places:
        return trials, base
    paired = ([t for t in rows if (t.rung, t.seed) in places] for rows in (trials, base))
    mine, theirs = paired
    return mine, theirs


@dataclass(frozen=True, kw_only=True)
class Confirmation:
    """One experiment's challenge of the incumbent, as far as it has come."""

    experiment: str
    against: str
    number: int
    """Counted over the campaign from 1: decides the level that it spends."""

    @property
    def alpha(self) -> float:
        """Its share of the campaign's budget of false keeps."""
        return BUDGET.alpha(self.number)


def run_pair(lab: Lab, confirmation: Confirmation, index: int) -> None:
    """Train challenger and incumbent on the next fresh seed, side by side where there is room."""
    seed = lab.seeds(Purpose.CONFIRM, index + 1, confirmation=confirmation.number)[index]
    arms = {Arm.CANDIDATE: confirmation.experiment, Arm.INCUMBENT: confirmation.against}

    def run(arm: Arm) -> Trial:
        return lab.trial(
            confirmation.experiment,
            lab.plan.confirm,
            seed,
            Purpose.CONFIRM,
            arm=arm,
            of=arms[arm],
        )

    with ThreadPoolExecutor(2, thread_name_prefix="pair") as pool:
        for result in [pool.submit(run, arm) for arm in arms]:
            result.result()


def confirmation_trials(lab: Lab, confirmation: Confirmation) -> list[Trial]:
    """Both arms' finished trials, in the order of their seeds."""
    trials = lab.ledger.trials(experiment=confirmation.experiment)
    mine = [t for t in trials if t.purpose is Purpose.CONFIRM and t.run is not None]
    order = lab.seeds(Purpose.CONFIRM, RULE.max_pairs, confirmation=confirmation.number)
    return sorted((t for t in mine if t.seed in order), key=lambda t: order.index(t.seed))


def paired_test(lab: Lab, confirmation: Confirmation) -> PairedTest:
    """The sequential test after the pairs so far."""
    floor = noise_floor(lab, lab.plan.confirm, but=confirmation.experiment)
    test = PairedTest(noise=floor, alpha=confirmation.alpha, rule=RULE)
    for value in _gains(lab.objective, confirmation_trials(lab, confirmation)):
        if test.judgement is not Judgement.CONTINUE:
            break
        test = test.add(FAILED if value == math.inf else value)
    return test


def estimate(lab: Lab, confirmation: Confirmation) -> Estimate:
    """The confirmed gain from the fresh pairs, before any look at the hold-out."""
    test = paired_test(lab, confirmation)
    fresh = test.estimate() if any(math.isfinite(g) for g in test.gains) else None
    return Estimate(
        gain=fresh.mean if fresh else None,
        gain_low=fresh.low if fresh else None,
        gain_high=fresh.high if fresh else None,
        pairs=len(test.gains),
        rung=lab.plan.confirm.name,
        against=confirmation.against,
        alpha_spent=confirmation.alpha,
    )


@dataclass(frozen=True)
class Paired:
    """Mean of paired gains with a 95 % Student interval of its own pairs only."""

    mean: float
    low: float
    high: float
    challenger: float
    """Mean of the challenger's values, metric's unit."""

    @classmethod
    def of(cls, gains: Sequence[float], values: Sequence[float]) -> "Paired":
        """From at least two pairs; the interval is infinite for fewer."""
        mean = float(np.mean(gains))
        if len(gains) < 2:
            return cls(mean, FAILED, math.inf, float(np.mean(values)))
        error = float(np.std(gains, ddof=1)) / math.sqrt(len(gains))
        half = float(stats.t.ppf(0.975, len(gains) - 1)) * error
        return cls(mean, mean - half, mean + half, float(np.mean(values)))


def look_at_holdout(
    lab: Lab, pairs: Sequence[Pair], challenger: str, incumbent: str
) -> Paired | None:
    """Score pairs on the hold-out, each trial once; None if one of them cannot be scored."""
    with ThreadPoolExecutor(lab.plan.workers, thread_name_prefix="look") as pool:
        mine = [pool.submit(_holdout_value, lab, pair.challenger, challenger) for pair in pairs]
        theirs = [pool.submit(_holdout_value, lab, pair.incumbent, incumbent) for pair in pairs]
    gains, values = [], []
    for own, other in zip(mine, theirs, strict=True):
        value, against = own.result(), other.result()
        if value is None or against is None:
            return None
        gains.append(lab.objective.direction.sign * (value - against))
        values.append(value)
    return Paired.of(gains, values) if gains else None


def confirmed_holdout(lab: Lab, confirmation: Confirmation) -> Paired | None:
    """The one counted look of a confirmation: every pair, both arms; repeated from the ledger."""
    pairs = pairs_of(confirmation_trials(lab, confirmation))
    return look_at_holdout(lab, pairs, confirmation.experiment, confirmation.against)


def _holdout_value(lab: Lab, trial: Trial, experiment: str) -> float | None:
    """The objective's metric on the hold-out; sizes and speeds are the same on every split."""
    if lab.objective.metric.partition("@")[0] != lab.bench.task.metric.partition("@")[0]:
        return trial.value(lab.objective.metric)
    measured = trial.holdout
    if measured is None:
        kept = {name: trial.artifacts.get(name) for name in lab.bench.trained}
        paths = {name: lab.ledger.artifacts.path(a.sha256) for name, a in kept.items() if a}
        if len(paths) < len(kept):
            return None
        program, split = lab.program_of(experiment), Split.HOLDOUT
        # Confirming trials of our own edits met a fresh checker already; foreign code always does.
        foreign = lab.foreign_author(experiment) is not None
        with lab.slot():
            started = time.monotonic()
            scored = lab.bench.score(program, paths, split, trial.seed, fresh_checker=foreign)
            lab.looks.append(time.monotonic() - started)
        measured = lab.ledger.record_holdout(trial.id, scored)
    return measured.metrics.get(lab.objective.metric)


def better(objective: Objective, value: float, bar: float) -> bool:
    """Whether a value meets a bar in the objective's direction."""
    return value <= bar if objective.direction is Direction.LOWER else value >= bar
