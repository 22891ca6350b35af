"""``bench null`` and ``bench known``, simulated halves: false keeps, power and cost of the rules.

Every row is many simulated campaigns (``nightlab.evals.simulation``) in one kind of noise. Claims
are made on the unfavourable end of a 95 % interval, never on the point estimate.
"""

import math
from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from nightlab.evals.simulation import Campaigns, Outcome, Procedure, World

WORLDS = (
    World(name="nominal"),
    World(name="correlated pairs", correlation=0.5),
    World(name="challenger variance x2", challenger_variance=2.0),
    World(name="challenger variance x4", challenger_variance=4.0),
    World(name="heavy tails (t4)", tail_df=4.0),
    World(name="x2 and t4 and correlated", challenger_variance=2.0, tail_df=4.0, correlation=0.3),
)

EFFECTS = (1.0, 2.0, 4.0)
"""Planted gains, in sigmas of one trial."""

TRIAL_SECONDS = 6.5
"""What a trial is taken to cost in seconds: the smallest rung of ``byte_lm``, training, scoring and
all, as measured on an idle machine with 2 cores."""

Cell = str | float | int | bool | None


class Claim(TypedDict):
    """One statement a benchmark was asked to check."""

    name: str
    target: float
    measured: float
    unit: str
    holds: bool


class Bench(TypedDict):
    """What every benchmark returns."""

    bench: str
    machine: str
    date: str
    settings: dict[str, Cell]
    rows: list[dict[str, Cell]]
    claims: list[Claim]


def simulated_null(
    *,
    machine: str,
    date: str,
    campaigns: int = 1000,
    seed: int = 0,
    procedure: Procedure | None = None,
    worlds: Sequence[World] = WORLDS,
) -> Bench:
    """Campaigns of nothing but null edits: how many are kept.

    ``machine`` and ``date`` are copied into the answer. Claims: at most one expected false keep
    per campaign in every world, by the upper end of the interval, and at most the budget's total
    at nominal noise.
    """
    procedure = procedure or Procedure()
    rows: list[dict[str, Cell]] = []
    claims: list[Claim] = []
    for index, world in enumerate(worlds):
        rng = np.random.default_rng([seed, index])
        row = _null_row(world, Campaigns(world, procedure, campaigns, rng).run())
        rows.append(row)
        upper = float(str(row["false_keeps_high"]))
        claims.append(_at_most(f"false keeps per campaign, {world.name}", 1.0, upper))
        if index == 0:
            total = procedure.budget.total
            claims.append(_at_most(f"false keeps within the budget, {world.name}", total, upper))
    settings = _settings(procedure, campaigns, seed)
    return Bench(
        bench="null", machine=machine, date=date, settings=settings, rows=rows, claims=claims
    )


def simulated_known(
    *,
    machine: str,
    date: str,
    campaigns: int = 2000,
    seed: int = 0,
    procedure: Procedure | None = None,
    worlds: Sequence[World] = WORLDS,
    effects: Sequence[float] = EFFECTS,
) -> Bench:
    """One planted gain at a random place among null edits: how often it is kept, at what cost.

    The claim is made at nominal noise for a gain of 4 sigmas; the other rows are shown.
    """
    procedure = procedure or Procedure()
    rows: list[dict[str, Cell]] = []
    claims: list[Claim] = []
    for index, world in enumerate(worlds):
        for effect in effects:
            rng = np.random.default_rng([seed, index, round(1000 * effect)])
            outcome = Campaigns(world, procedure, campaigns, rng, effect).run()
            rows.append(_known_row(world, effect, outcome))
            if index == 0 and effect == 4.0:
                claims.append(_power_claim(rows[-1]))
    settings = _settings(procedure, campaigns, seed)
    return Bench(
        bench="known", machine=machine, date=date, settings=settings, rows=rows, claims=claims
    )


def _null_row(world: World, outcome: Outcome) -> dict[str, Cell]:
    low, high = mean_interval(outcome.false_keeps)
    return {
        "noise": world.name,
        "false_keeps": float(outcome.false_keeps.mean()),
        "false_keeps_low": low,
        "false_keeps_high": high,
        "campaigns_with_any": float((outcome.false_keeps > 0).mean()),
        "worst_campaign": int(outcome.false_keeps.max()),
        "confirmations": float(outcome.confirmations.mean()),
        "trials": float(outcome.trials.mean()),
    }


def _known_row(world: World, effect: float, outcome: Outcome) -> dict[str, Cell]:
    size, found = outcome.found.size, int(outcome.found.sum())
    interval = stats.binomtest(found, size).proportion_ci(0.95, "wilson")
    promoted = ~np.isnan(outcome.planted_screen)
    return {
        "noise": world.name,
        "effect_sigmas": effect,
        "power": found / size,
        "power_low": float(interval.low),
        "power_high": float(interval.high),
        "promoted": float(promoted.mean()),
        "mean_trials": float(outcome.planted_trials.mean()),
        "mean_seconds": float(outcome.planted_trials.mean()) * TRIAL_SECONDS,
        "mean_trials_when_kept": _mean(outcome.planted_trials[outcome.found].astype(float)),
        "screen_excess": _mean(outcome.planted_screen[outcome.found] - effect),
        "estimate_excess": _mean(outcome.planted_estimate[outcome.found] - effect),
        "interval_coverage": _mean(outcome.planted_covered[outcome.found]),
        "false_keeps": float(outcome.false_keeps.mean()),
    }


def _mean(values: NDArray[np.float64]) -> float | None:
    return float(values.mean()) if values.size else None


def mean_interval(counts: NDArray[np.int64]) -> tuple[float, float]:
    """95 % interval of the expected count per campaign.

    Student's on the campaign means, since the keeps of one campaign share its noise floor and so
    are not Poisson; 3 / n as upper end (the rule of three) when all counts are 0.
    """
    n = counts.size
    if not counts.any():
        return 0.0, 3.0 / n
    half = float(stats.t.isf(0.025, n - 1)) * float(counts.std(ddof=1)) / math.sqrt(n)
    mean = float(counts.mean())
    return max(0.0, mean - half), mean + half


def _at_most(name: str, target: float, measured: float) -> Claim:
    return Claim(
        name=f"{name} (upper 95 % bound)",
        target=target,
        measured=measured,
        unit="keeps",
        holds=measured <= target,
    )


def _power_claim(row: dict[str, Cell]) -> Claim:
    low = float(str(row["power_low"]))
    return Claim(
        name="a gain of 4 sigmas is confirmed (lower 95 % bound)",
        target=0.95,
        measured=low,
        unit="share of campaigns",
        holds=low >= 0.95,
    )


def _settings(procedure: Procedure, campaigns: int, seed: int) -> dict[str, Cell]:
    rule = procedure.paired
    return {
        "campaigns": campaigns,
        "seed": seed,
        "trial_seconds": TRIAL_SECONDS,
        "edits": procedure.edits,
        "floor_trials": procedure.floor_trials,
        "screen_margins": ", ".join(f"{margin:g}" for margin in procedure.screen.margins),
        "min_pairs": rule.min_pairs,
        "max_pairs": rule.max_pairs,
        "futility": rule.futility,
        "variance_ratio": rule.variance_ratio,
        "max_prior_df": rule.max_prior_df,
        "budget_total": procedure.budget.total,
        "budget_exponent": procedure.budget.exponent,
    }
