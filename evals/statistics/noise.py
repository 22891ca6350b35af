"""The noise floor of a rung: how much a metric moves when nothing but the seed changes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from nightlab.errors import UsageError

MIN_TRIALS = 3
"""Fewer identical trials say next to nothing about a spread (df 2: a factor of 12 at 95 %)."""

UNSTABLE_VARIANCE = 4.0
"""A challenger's spread counts into the campaign's paired spread up to this multiple of it."""


@dataclass(frozen=True, kw_only=True)
class NoiseFloor:
    """Spread of repeated trials of the same program on one rung, and of paired differences."""

    rung: str
    mean: float
    """Mean of the first program's trials, in the metric's unit and natural direction."""
    sd: float
    """Seed-to-seed standard deviation of one trial, metric's unit, pooled within programs."""
    n: int
    """Trials behind ``sd``."""
    df: int
    """Degrees of freedom of ``sd``: trials less the number of programs."""
    paired_sd: float
    """Standard deviation of one paired difference between two programs, metric's unit."""
    paired_df: int
    """Degrees of freedom of ``paired_sd``."""

    @classmethod
    def measure(cls, rung: str, *programs: Sequence[float]) -> "NoiseFloor":
        """Pool the spread of each program's repeated trials about that program's own mean.

        ``programs``: one sequence of metric values per program, the baseline first (later ones
        may be re-runs of incumbents). Until paired differences are seen, ``paired_sd`` is
        sqrt(2) ``sd``, which assumes that pairing on the seed removes nothing.
        Raises ``UsageError`` for fewer than three trials of the first program or values that are
        not finite.
        """
        groups = [np.asarray(values, dtype=float) for values in programs if len(values) > 0]
        if not groups or groups[0].size < MIN_TRIALS:
            raise UsageError(f"a noise floor needs at least {MIN_TRIALS} trials of the baseline")
        if not all(np.isfinite(group).all() for group in groups):
            raise UsageError("a noise floor needs finite values: leave failed trials out")
        n = sum(group.size for group in groups)
        df = n - len(groups)
        mean = float(groups[0].mean())
        squares = sum(float(((group - group.mean()) ** 2).sum()) for group in groups)
        sd = max(math.sqrt(squares / df), _resolution(mean))
        return cls(
            rung=rung, mean=mean, sd=sd, n=n, df=df, paired_sd=math.sqrt(2) * sd, paired_df=df
        )

    def with_pairs(self, *comparisons: Sequence[float]) -> "NoiseFloor":
        """Refine ``paired_sd`` by the gains of finished confirmations, one sequence each.

        Each comparison adds its spread about its own mean, so real gains do not count as noise.
        A comparison whose variance is more than ``UNSTABLE_VARIANCE`` times that of two
        independent trials counts as that much: one unstable challenger must not blind the rest.
        """
        prior = 2 * self.sd**2
        squares, df = prior * self.df, self.df
        for gains in comparisons:
            finite = np.asarray([gain for gain in gains if math.isfinite(gain)])
            if finite.size >= 2:
                variance = float(finite.var(ddof=1))
                squares += min(variance, UNSTABLE_VARIANCE * prior) * (finite.size - 1)
                df += finite.size - 1
        return replace(
            self, paired_sd=max(math.sqrt(squares / df), _resolution(self.mean)), paired_df=df
        )

    def sd_interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Chi-squared confidence interval of ``sd``, metric's unit (normal noise assumed)."""
        tail = (1 - confidence) / 2
        squares = self.sd**2 * self.df
        low, high = (float(stats.chi2.ppf(level, self.df)) for level in (1 - tail, tail))
        return math.sqrt(squares / low), math.sqrt(squares / high)

    def mean_interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Student interval of ``mean``, metric's unit; meant for a floor of one program."""
        half = float(stats.t.ppf((1 + confidence) / 2, self.df)) * self.sd / math.sqrt(self.n)
        return self.mean - half, self.mean + half


def _resolution(mean: float) -> float:
    """Stand-in spread of a metric that does not vary at all (a parameter count)."""
    return 1e-12 * max(1.0, abs(mean))
