"""Whether a new version may take over: its worth on decisions it was not trained on.

    IPS   = mean(w r)          SNIPS = sum(w r) / sum(w)          ESS = sum(w)^2 / sum(w^2)
    DR    = mean(V_1 + w_1 (V_2 - q_1) + w_1 w_2 (V_3 - q_2) + ... + w (r - q_H))

DR is sequential over the heads of one decision: V_h = E_pi q_h, and w_1..w_h are products of
the heads' ratios (clipped). It is right when either the critics or the propensities are.
"""

from dataclasses import dataclass

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
    names, inverse = np.unique(units, return_inverse=True)
    if len(names) < 2:
        return -np.inf
    sums = np.bincount(inverse, terms, minlength=len(names))
    sizes = np.bincount(inverse, minlength=len(names)).astype(np.float64)
    picked = rng.integers(len(names), size=(draws, len(names)))
    means = sums[picked].sum(axis=1) / sizes[picked].sum(axis=1)
    return float(np.quantile(means, 0.025))


@dataclass(frozen=True)
class Judgement:
    """What the gate says."""

    adopt: bool
    reason: str
    difference_bound: float = -np.inf
    """Lower 95 % bound of the paired difference to the version in charge."""


def judge(
    candidate: Worth,
    current: Worth,
    units: NDArray[np.int64],
    rng: np.random.Generator,
) -> Judgement:
    """Adopt only on evidence: ESS, no dominant decision, value above the current lower bound,
    and the stricter paired difference bound above 0."""
    if candidate.ess < LEAST_ESS:
        return Judgement(False, f"effective sample size {candidate.ess:.1f} is below 20")
    if candidate.largest_share > MOST_SHARE:
        share = candidate.largest_share
        return Judgement(False, f"one decision carries {share:.0%} of the weight")
    floor = lower_bound(current.per_decision, units, rng)
    if candidate.dr <= floor:
        return Judgement(False, f"value {candidate.dr:.3f} is not above the bound {floor:.3f}")
    gap = lower_bound(candidate.per_decision - current.per_decision, units, rng)
    if gap <= 0.0:
        return Judgement(False, f"paired difference bound {gap:.4f} is not above 0", gap)
    return Judgement(True, f"paired difference bound {gap:.4f} is above 0", gap)
