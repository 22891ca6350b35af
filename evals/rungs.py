"""Asynchronous successive halving whose cut is as wide as the rungs disagree.

ASHA (Li et al., arXiv 1810.05934, algorithm 2) promotes the best 1/eta of a rung as soon as they
are there, without a barrier. That is right only where a low rung ranks like a high one. Here the
promoted share grows until the rung loses at most ``miss`` of what the next rung would have put in
its best 1/eta, given the *measured* rank correlation between the two: a rung rejects, it never
crowns.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import optimize, stats

from nightlab.errors import UsageError
from nightlab.evals.statistics import ScreenRule

UNMEASURED_CORRELATION = 0.4
"""Assumed while too few programs ran on both rungs: below what NAS-Bench-201 shows inside its best
tenth (Spearman .43 to .50 between 12 and 200 epochs)."""

MIN_PROGRAMS = 8
"""Programs on both rungs before their rank correlation is used."""


@dataclass(frozen=True, kw_only=True)
class RungLink:
    """How well a rung ranks programs for the next one."""

    correlation: float
    """Spearman's rank correlation of the gains on the two rungs."""
    low: float
    high: float
    """95 % interval; (-1, 1) where nothing can be said."""
    programs: int
    """Programs measured on both rungs."""

    @classmethod
    def measure(cls, lower: Sequence[float], higher: Sequence[float]) -> "RungLink":
        """From the gains of the same programs on the lower and the higher rung.

        The interval is Fisher's z with the variance 1.06 / (n - 3) of Fieller, Hartley and
        Pearson, Biometrika 44 (1957). Only promoted programs run on both rungs, which narrows
        their range and so biases the correlation towards 0: the cut errs on the wide side.
        Raises ``UsageError`` when the lengths differ or a gain is not finite.
        """
        if len(lower) != len(higher):
            raise UsageError("a rung link needs the gains of the same programs on both rungs")
        if not (np.isfinite(lower).all() and np.isfinite(higher).all()):
            raise UsageError("a rung link needs finite gains: leave failed trials out")
        n = len(lower)
        if n < 4 or len(set(lower)) == 1 or len(set(higher)) == 1:
            return cls(correlation=math.nan, low=-1.0, high=1.0, programs=n)
        correlation = float(stats.spearmanr(lower, higher).statistic)
        half = 1.959964 * math.sqrt(1.06 / (n - 3))
        z = math.atanh(max(-0.999999, min(0.999999, correlation)))
        return cls(
            correlation=correlation, low=math.tanh(z - half), high=math.tanh(z + half), programs=n
        )

    @property
    def trusted(self) -> float:
        """The correlation to plan with: halfway to the lower end of the interval, at least 0."""
        if self.programs < MIN_PROGRAMS or math.isnan(self.correlation):
            return UNMEASURED_CORRELATION
        return max(0.0, (self.correlation + self.low) / 2)


LEAST_FACTOR = 0.5
"""Margins are never cut below half: in simulation, half of them doubles the confirmations of a
long campaign and costs no power; less than that costs both (docs/statistics.md)."""


def margins(link: RungLink | None, rule: ScreenRule) -> ScreenRule:
    """The screening rule for a rung that ranks for the next one as ``link`` says.

    Of a gain of one standard deviation on the next rung, a low rung shows on average only the
    correlation between the two (regression to the mean), so the margins shrink by it: wide while
    it is unmeasured, back to the full ones as it nears 1. None: the two are one rung.
    """
    if link is None:
        return rule
    pearson = 2 * math.sin(math.pi * link.trusted / 6)
    factor = max(LEAST_FACTOR, pearson)
    return replace(rule, margins=tuple(factor * margin for margin in rule.margins))


def even_share(lower: float, higher: float, price: float = 0.0) -> bool:
    """Whether a rung that takes one more program of ``price`` has had no more than the one below.

    ``lower`` and ``higher`` are what was spent on each, in one unit of cost. Successive halving
    gives every rung the same budget (Jamieson and Talwalkar, arXiv 1502.07943, section 3); without
    a barrier that is ASHA with eta the ratio of the rungs' costs.
    """
    return higher + price <= lower + 1e-9


def promoted_share(correlation: float, eta: float = 3.0, miss: float = 0.1) -> float:
    """Share of a rung to promote so that at most ``miss`` of the next rung's best 1/eta is lost.

    ``correlation``: Spearman's, turned into the correlation of a bivariate normal by
    2 sin(pi rho / 6). Returns a share in [(1 - miss) / eta, 1 - miss]: perfect rungs and useless
    rungs. Raises ``UsageError`` for arguments out of range.
    """
    if not (0 <= correlation <= 1 and eta > 1 and 0 < miss < 1):
        raise UsageError("promoted_share needs 0 <= correlation <= 1, eta > 1, 0 < miss < 1")
    pearson = min(2 * math.sin(math.pi * correlation / 6), 0.999)
    # Midpoints of equal-probability slices of the next rung's best 1/eta.
    best = stats.norm.isf((np.arange(400) + 0.5) / 400 / eta)
    spread = math.sqrt(1 - pearson**2)

    def lost(cut: float) -> float:
        return float(stats.norm.cdf((cut - pearson * best) / spread).mean()) - miss

    cut = float(optimize.brentq(lost, -10.0, 10.0))
    return float(stats.norm.sf(cut))


def promotable(
    gains: Mapping[str, float], promoted: Collection[str], share: float
) -> tuple[str, ...]:
    """Experiments of one rung to promote now, best first.

    ``gains``: gain over the incumbent of every experiment finished on the rung, by id; failed
    trials as ``-inf`` count in the rung's size and are never promoted. ``promoted``: ids already
    promoted from it. The first ones wait until the share is worth a whole experiment.
    """
    places = math.floor(len(gains) * share + 1e-9)
    ranked = sorted(gains, key=lambda name: (-gains[name], name))
    return tuple(
        name for name in ranked[:places] if name not in promoted and math.isfinite(gains[name])
    )
