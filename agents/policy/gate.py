"""Whether a new version may take over: its worth on decisions it was not trained on.

    IPS   = mean(w r)          SNIPS = sum(w r) / sum(w)          ESS = sum(w)^2 / sum(w^2)
    DR    = mean(V_1 + w_1 (V_2 - q_1) + w_1 w_2 (V_3 - q_2) + ... + w (r - q_H))

DR is sequential over the heads of one decision: V_h = E_pi q_h, and w_1..w_h are products of
the heads' ratios (clipped). It is right when either the critics or the propensities are.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

CLIP = 10.0
LEAST_ESS = 20.0
MOST_SHARE = 0.3
"""Largest share of the weight that one decision may carry."""


@dataclass(frozen=True)
class Worth:
    """A version's value on a set of decisions."""

    per_decision: Floats
    """Doubly-robust terms, shape (decisions,)."""
    weights: Floats
    """Clipped joint importance weights, shape (decisions,)."""
    rewards: Floats

    @property
    def dr(self) -> float:
        return float(self.per_decision.mean())

    @property
    def ips(self) -> float:
        return float((self.weights * self.rewards).mean())

    @property
    def snips(self) -> float:
        return float((self.weights * self.rewards).sum() / max(self.weights.sum(), 1e-12))

    @property
    def ess(self) -> float:
        return effective_size(self.weights)

    @property
    def largest_share(self) -> float:
        """Share of all weight that the heaviest decision carries."""
        return float(self.weights.max() / max(self.weights.sum(), 1e-12))


def effective_size(weights: Floats) -> float:
    """Effective sample size, between 0 and the number of decisions."""
    squares = float(np.square(weights).sum())
    return float(weights.sum() ** 2 / squares) if squares > 0 else 0.0


def lower_bound(
    terms: Floats, units: NDArray[np.int64], rng: np.random.Generator, draws: int = 400
) -> float:
    """Lower end of the 95 % bootstrap interval of the mean, resampling whole lineages.

    With fewer than two lineages there is no bound: minus infinity.
    """
    return bounds(terms, units, rng, draws)[0]


def bounds(
    terms: Floats, units: NDArray[np.int64], rng: np.random.Generator, draws: int = 400
) -> tuple[float, float]:
    """Both ends of that interval; infinite with fewer than two lineages."""
    names, inverse = np.unique(units, return_inverse=True)
    if len(names) < 2:
        return -np.inf, np.inf
    sums = np.bincount(inverse, terms, minlength=len(names))
    sizes = np.bincount(inverse, minlength=len(names)).astype(np.float64)
    picked = rng.integers(len(names), size=(draws, len(names)))
    means = sums[picked].sum(axis=1) / sizes[picked].sum(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


@dataclass(frozen=True)
class Judgement:
    """What the gate says."""

    adopt: bool
    reason: str
    difference_bound: float = -np.inf
    """Lower 95 % bound of the paired difference to the version in charge."""
    numbers: Mapping[str, float] = field(default_factory=dict)
    """Doubly-robust value of the candidate and of the version in charge with the ends of their
    95 % intervals, and the mean paired difference; empty where nothing was judged."""


def judge(
    candidate: Worth,
    current: Worth,
    units: NDArray[np.int64],
    rng: np.random.Generator,
) -> Judgement:
    """Adopt only on evidence: ESS, no dominant decision, value above the current lower bound,
    and the stricter paired difference bound above 0."""
    difference = candidate.per_decision - current.per_decision
    low, high = bounds(candidate.per_decision, units, rng)
    floor, ceiling = bounds(current.per_decision, units, rng)
    gap = lower_bound(difference, units, rng)
    numbers = {
        "value": candidate.dr,
        "value_low": low,
        "value_high": high,
        "current": current.dr,
        "current_low": floor,
        "current_high": ceiling,
        "difference": float(difference.mean()),
        "difference_low": gap,
        "largest_share": candidate.largest_share,
    }
    if candidate.ess < LEAST_ESS:
        reason = f"effective sample size {candidate.ess:.1f} is below {LEAST_ESS:g}"
    elif candidate.largest_share > MOST_SHARE:
        reason = f"one decision carries {candidate.largest_share:.0%} of the weight"
    elif candidate.dr <= floor:
        reason = f"value {candidate.dr:.3f} is not above the bound {floor:.3f}"
    elif gap <= 0.0:
        reason = f"paired difference bound {gap:.4f} is not above 0"
    else:
        return Judgement(True, f"paired difference bound {gap:.4f} is above 0", gap, numbers)
    return Judgement(False, reason, gap, numbers)
