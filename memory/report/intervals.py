"""Intervals for means, spreads and differences of repeated trials (normal noise assumed), and
for shares."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, variance

from scipy.special import betaincinv, chdtri, stdtrit

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A number with the range that holds the truth with 95 % confidence."""

    value: float
    low: float | None
    """None where one trial is all there is."""
    high: float | None
    trials: tuple[str, ...] = ()
    """Ids of the trials behind it."""

    @property
    def range(self) -> list[float] | None:
        """``[low, high]``, as documents show it."""
        return None if self.low is None or self.high is None else [self.low, self.high]


def mean(values: Sequence[float], trials: Sequence[str] = ()) -> Interval | None:
    """Mean with Student's interval; None without values."""
    if not values:
        return None
    middle = fmean(values)
    if len(values) < 2:
        return Interval(value=middle, low=None, high=None, trials=tuple(trials))
    error = math.sqrt(variance(values) / len(values))
    half = _student(len(values) - 1) * error
    return Interval(value=middle, low=middle - half, high=middle + half, trials=tuple(trials))


def spread(values: Sequence[float], trials: Sequence[str] = ()) -> Interval | None:
    """Standard deviation with its chi-squared interval; None below two values."""
    if len(values) < 2:
        return None
    df = len(values) - 1
    found = variance(values)
    tail = (1 - CONFIDENCE) / 2
    return Interval(
        value=math.sqrt(found),
        low=math.sqrt(df * found / float(chdtri(df, tail))),
        high=math.sqrt(df * found / float(chdtri(df, 1 - tail))),
        trials=tuple(trials),
    )


def difference(ours: Sequence[float], theirs: Sequence[float]) -> Interval | None:
    """Mean of ``ours`` less mean of ``theirs``, with Welch's interval; None without values."""
    if not ours or not theirs:
        return None
    middle = fmean(ours) - fmean(theirs)
    if len(ours) < 2 or len(theirs) < 2:
        return Interval(value=middle, low=None, high=None)
    a, b = variance(ours) / len(ours), variance(theirs) / len(theirs)
    if a + b == 0:
        return Interval(value=middle, low=middle, high=middle)
    df = (a + b) ** 2 / (a**2 / (len(ours) - 1) + b**2 / (len(theirs) - 1))
    half = _student(df) * math.sqrt(a + b)
    return Interval(value=middle, low=middle - half, high=middle + half)


def share(hits: int, trials: Sequence[str]) -> Interval | None:
    """Share of trials with its exact interval (Clopper and Pearson, Biometrika 26, 1934); None
    without trials."""
    n = len(trials)
    if n == 0:
        return None
    tail = (1 - CONFIDENCE) / 2
    low = 0.0 if hits == 0 else float(betaincinv(hits, n - hits + 1, tail))
    high = 1.0 if hits == n else float(betaincinv(hits + 1, n - hits, 1 - tail))
    return Interval(value=hits / n, low=low, high=high, trials=tuple(trials))


def _student(df: float) -> float:
    return float(stdtrit(df, 1 - (1 - CONFIDENCE) / 2))
