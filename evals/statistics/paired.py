"""The confirmation: a sequential test on fresh paired differences, with the noise floor as prior.

With three to six pairs a plain t-test is blind: it must learn the spread from the same pairs. The
moderated t-test (Smyth, "Linear models and empirical Bayes methods", SAGMB 3 (2004), section 4)
adds the noise floor's spread with its own degrees of freedom. Looking after every pair is paid
for by splitting the level over the planned looks (Bonferroni, so no independence is assumed).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from nightlab.errors import UsageError
from nightlab.evals.statistics.noise import NoiseFloor

Floats = NDArray[np.float64]


class Judgement(StrEnum):
    """What the pairs so far say."""

    CONTINUE = "continue"
    KEEP = "keep"
    DROP = "drop"


@dataclass(frozen=True, kw_only=True)
class Moderated:
    """Mean of paired gains with a spread that leans on the noise floor; arrays over tests."""

    mean: Floats
    sd: Floats
    """Of one paired gain."""
    df: Floats
    n: int

    @property
    def error(self) -> Floats:
        """Standard error of the mean."""
        return self.sd / math.sqrt(self.n)


@dataclass(frozen=True, kw_only=True)
class PairedRule:
    """When to keep, drop or go on; fixed before the first pair of a campaign."""

    min_pairs: int = 3
    """No keep before this many pairs."""
    max_pairs: int = 8
    drop_from: int = 2
    """No drop before this many pairs (a failed trial drops at once)."""
    min_effect: float = 0.0
    """A keep needs a mean gain of at least this, in the metric's unit."""
    futility: float = 0.1
    """Drop when the predicted chance of a keep at ``max_pairs`` is below this."""
    variance_ratio: float = 2.0
    """How noisy a challenger may be at no cost in false keeps: multiple of the floor's variance."""
    max_prior_df: int = 8
    """The noise floor never counts for more than this many degrees of freedom."""

    def __post_init__(self) -> None:
        if not (2 <= self.min_pairs <= self.max_pairs and self.drop_from >= 1):
            raise UsageError("a paired test needs 2 <= min_pairs <= max_pairs and drop_from >= 1")
        if self.min_effect < 0 or self.variance_ratio < 1:
            raise UsageError("a paired test needs min_effect >= 0 and variance_ratio >= 1")

    @property
    def looks(self) -> int:
        """How often a keep is possible."""
        return self.max_pairs - self.min_pairs + 1

    def moderate(self, gains: Floats, paired_sd: ArrayLike, paired_df: ArrayLike) -> Moderated:
        """Pool the spread of ``gains`` (..., n) with the floor's (Smyth 2004, his s-tilde).

        The floor's variance is first raised by (1 + ``variance_ratio``) / 2, the variance of an
        incumbent trial plus a challenger trial that is ``variance_ratio`` times as noisy.
        """
        n = gains.shape[-1]
        prior_df = np.minimum(np.asarray(paired_df, dtype=float), self.max_prior_df)
        prior = np.asarray(paired_sd, dtype=float) ** 2 * (1 + self.variance_ratio) / 2
        mean = gains.mean(axis=-1)
        squares = ((gains - mean[..., None]) ** 2).sum(axis=-1)
        df = prior_df + n - 1
        return Moderated(mean=mean, sd=np.sqrt((prior_df * prior + squares) / df), df=df, n=n)

    def judge(
        self, gains: Floats, alpha: ArrayLike, paired_sd: ArrayLike, paired_df: ArrayLike
    ) -> NDArray[np.int8]:
        """+1 keep, 0 continue, -1 drop, for finite ``gains`` of shape (..., n), n >= 1."""
        now = self.moderate(gains, paired_sd, paired_df)
        level = np.asarray(alpha, dtype=float) / self.looks
        bar = np.maximum(stats.t.isf(level, now.df) * now.error, self.min_effect)
        keep = (now.mean >= bar) & (now.n >= self.min_pairs)
        if now.n >= self.max_pairs:
            return np.where(keep, 1, -1).astype(np.int8)
        drop = (self.chance(now, level) < self.futility) & (now.n >= self.drop_from)
        return np.where(keep, 1, np.where(drop, -1, 0)).astype(np.int8)

    def half_width(self, now: Moderated, confidence: float) -> Floats:
        """Half of the interval of the mean that holds at every planned look at once."""
        tail = (1 - confidence) / 2 / self.looks
        return np.asarray(stats.t.isf(tail, now.df) * now.error, dtype=float)

    def chance(self, now: Moderated, level: Floats) -> Floats:
        """Predicted chance that all ``max_pairs`` pairs would end in a keep, spread as it is now.

        Predictive power: Spiegelhalter, Freedman and Blackburn, Controlled Clinical Trials 7
        (1986). Dropping can only lower the false-keep rate, so it spends nothing.
        """
        final_df = now.df + self.max_pairs - now.n
        final_error = now.sd / math.sqrt(self.max_pairs)
        bar = np.maximum(stats.t.isf(level, final_df) * final_error, self.min_effect)
        spread = now.sd * math.sqrt(1 / now.n - 1 / self.max_pairs)
        return np.asarray(stats.t.sf((bar - now.mean) / spread, now.df), dtype=float)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A confirmed gain with its interval, from fresh pairs only."""

    mean: float
    """Metric's unit, positive = better."""
    low: float
    high: float
    confidence: float
    """Chance that the interval holds the truth at *every* look at once."""
    sd: float
    """Moderated standard deviation of one pair."""
    pairs: int


@dataclass(frozen=True, kw_only=True)
class PairedTest:
    """One confirmation: ``test = test.add(gain)`` after each fresh pair, then ``judgement``."""

    noise: NoiseFloor
    alpha: float
    """Level of this confirmation, from ``FalseKeepBudget.alpha(j)``."""
    rule: PairedRule = field(default_factory=PairedRule)
    gains: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise UsageError(f"alpha must lie between 0 and 1, not {self.alpha}")
        if any(math.isnan(gain) or gain == math.inf for gain in self.gains):
            raise UsageError("a gain must be a number; a failed trial counts as -inf")

    def add(self, gain: float) -> "PairedTest":
        """The test with one more fresh pair (positive = better, a failed trial is ``-inf``)."""
        if self.judgement is not Judgement.CONTINUE:
            raise UsageError(f"the test has ended: {self.judgement}")
        return replace(self, gains=(*self.gains, gain))

    @property
    def judgement(self) -> Judgement:
        """Keep, drop or continue, from all pairs so far."""
        if not self.gains:
            return Judgement.CONTINUE
        if -math.inf in self.gains:
            return Judgement.DROP
        code = self.rule.judge(
            np.asarray(self.gains), self.alpha, self.noise.paired_sd, self.noise.paired_df
        )
        return {1: Judgement.KEEP, 0: Judgement.CONTINUE, -1: Judgement.DROP}[int(code)]

    def estimate(self, confidence: float = 0.95) -> Estimate:
        """Mean gain and repeated confidence interval (Jennison and Turnbull, JRSS B 51 (1989)).

        The interval is wide enough for every planned look together, so stopping when it looks
        good does not break it. Raises ``UsageError`` before the first finite pair.
        """
        finite = np.asarray([gain for gain in self.gains if math.isfinite(gain)])
        if finite.size == 0:
            raise UsageError("no finite pair yet")
        now = self.rule.moderate(finite, self.noise.paired_sd, self.noise.paired_df)
        half = float(self.rule.half_width(now, confidence))
        mean = float(now.mean)
        return Estimate(
            mean=mean,
            low=mean - half,
            high=mean + half,
            confidence=confidence,
            sd=float(now.sd),
            pairs=finite.size,
        )

    def p_value(self) -> float:
        """One-sided moderated p-value of the pairs so far, before any correction; for display."""
        if not self.gains:
            raise UsageError("no pair yet")
        if -math.inf in self.gains:
            return 1.0
        now = self.rule.moderate(np.asarray(self.gains), self.noise.paired_sd, self.noise.paired_df)
        return float(stats.t.sf(now.mean / now.error, now.df))


def lower_confidence_bound(
    gains: Sequence[float],
    noise: NoiseFloor,
    rule: PairedRule,
    confidence: float = 0.9,
) -> float:
    """What the mean of ``gains`` exceeds with ``confidence``, metric's unit: rank by this.

    One lucky trial ranks below three good ones; any failed trial (``-inf``) ranks last. Raises
    ``UsageError`` without gains.
    """
    if not gains:
        raise UsageError("nothing to rank")
    if not all(math.isfinite(gain) for gain in gains):
        return -math.inf
    now = rule.moderate(np.asarray(gains, dtype=float), noise.paired_sd, noise.paired_df)
    return float(now.mean - stats.t.ppf(confidence, now.df) * now.error)
