"""Spectra as a reward: bounded potential-based shaping that can never change a rank by itself.

The potential is bounded and ends at zero, so that over a whole run its shaping telescopes to a
constant of the start and optimal policies stay what they were (Ng, Harada and Russell, 1999).
``shaped`` then caps each bonus below half of the smallest gap between the rewards it joins, so a
forged spectrum can break a tie and nothing more.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

from nightlab.evals.nerve.thirds import THIRDS, Summary

WEIGHT = 0.01
"""Default weight of the shaping, in units of the reward."""
MAX_WEIGHT = 0.05


def potential(now: Summary | None) -> float:
    """Phi in [-1, 1] from a summary; 0 for a terminal state or one without spectra.

    High where the feed-forwards neither waste their width nor repair a collapsed input: mean over
    thirds of tanh(logit(PR_pre/D) / 4), less a quarter of tanh of the log gain beyond 1.
    """
    if now is None:
        return 0.0
    terms = []
    for where in THIRDS:
        share, gain = now.values.get((where, "pr_pre")), now.values.get((where, "log_gain"))
        if share is None or gain is None or not (math.isfinite(share) and math.isfinite(gain)):
            continue
        inside = min(1 - 1e-4, max(1e-4, share))
        repair = math.tanh(max(0.0, gain - 1.0))
        terms.append(0.75 * math.tanh(math.log(inside / (1 - inside)) / 4) - 0.25 * repair)
    return sum(terms) / len(terms) if terms else 0.0


def shaping(
    before: Summary | None,
    after: Summary | None,
    *,
    gamma: float = 1.0,
    weight: float = WEIGHT,
    terminal: bool = False,
) -> float:
    """weight x (gamma Phi(s') - Phi(s)), with Phi(s') = 0 where s' is terminal.

    ValueError for a weight outside [0, MAX_WEIGHT] or a gamma outside [0, 1].
    """
    if not 0 <= weight <= MAX_WEIGHT or not 0 <= gamma <= 1:
        raise ValueError(
            f"weight {weight} must be within [0, {MAX_WEIGHT}] and gamma within [0, 1]"
        )
    return weight * (gamma * (0.0 if terminal else potential(after)) - potential(before))


def shaped(
    rewards: Sequence[float], bonuses: Sequence[float], *, weight: float = WEIGHT
) -> list[float]:
    """Trusted rewards with capped bonuses added; the order of unequal rewards never changes.

    Each bonus is clipped to 0.49 of the smallest gap between unequal rewards, and to ``weight``
    where all are equal. A bonus that is not finite counts as 0. ValueError for a weight outside
    [0, MAX_WEIGHT], or lengths that differ.
    """
    if not 0 <= weight <= MAX_WEIGHT:
        raise ValueError(f"weight {weight} must be within [0, {MAX_WEIGHT}]")
    levels = sorted(set(rewards))
    gaps = [b - a for a, b in pairwise(levels)]
    limit = min([weight, *(0.49 * gap for gap in gaps)])
    return [
        reward + (max(-limit, min(limit, bonus)) if math.isfinite(bonus) else 0.0)
        for reward, bonus in zip(rewards, bonuses, strict=True)
    ]
