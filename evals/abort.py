"""Early abort: stop a trial whose curve, beside the incumbent's own, cannot win.

A power law fitted to half a curve does not know that the learning rate will decay. So nothing is
extrapolated: the challenger's loss is compared with the incumbent's at the same fraction of the
budget on the same seed, and finished trials say what such a difference came to at the end. Curves
are self-reported: they may end a trial early, they never earn anything.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from nightlab.errors import UsageError

Floats = NDArray[np.float64]


class Fate(StrEnum):
    """What to do with a running trial at a checkpoint."""

    RUN = "run"
    ABORT = "abort"
    AUDIT = "audit"
    """Would be aborted, but the coin lets it finish so that the abort rule can be judged."""


@dataclass(frozen=True)
class Curve:
    """A loss curve over one trial."""

    fractions: tuple[float, ...]
    """Of the trial's own training budget, increasing, in (0, 1]."""
    losses: tuple[float, ...]
    """Lower is better; any unit that is the same for challenger and incumbent."""

    def __post_init__(self) -> None:
        if len(self.fractions) != len(self.losses) or not self.fractions:
            raise UsageError("a curve needs as many losses as fractions, at least one")
        if any(b <= a for a, b in zip(self.fractions, self.fractions[1:], strict=False)):
            raise UsageError("the fractions of a curve must increase")

    def at(self, fraction: float) -> float:
        """Loss at a budget fraction, linear between points, flat outside them."""
        return float(np.interp(fraction, self.fractions, self.losses))

    @property
    def diverged(self) -> bool:
        """Not finite, or 5 % worse than where it began after a fifth of the budget.

        Less than that may be the batches: a low learning rate has hardly moved by then.
        """
        if not all(math.isfinite(loss) for loss in self.losses):
            return True
        first, last = self.losses[0], self.losses[-1]
        return self.fractions[-1] >= 0.2 and last - first > 0.05 * abs(first)


def lead(challenger: Curve, incumbent: Curve, fraction: float) -> float:
    """How far the challenger is ahead (positive) at a budget fraction, in the loss's unit."""
    return incumbent.at(fraction) - challenger.at(fraction)


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A trial that ran to its end, audited ones included."""

    challenger: Curve
    incumbent: Curve
    """The incumbent's of that time, on the same rung and seed."""
    gain: float
    """Trusted final gain, positive = better; ``-inf`` for a failed trial."""


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Final gain as a line in the lead at one checkpoint, from finished trials."""

    intercept: float
    slope: float
    scale: float
    """Robust spread of final gains about the line, in the unit of gains."""
    centre: float
    """Mean lead of the finished trials."""
    leverage: float
    """Sum of squares of their leads about ``centre``."""
    trials: int

    @classmethod
    def fit(cls, leads: Sequence[float], gains: Sequence[float]) -> "Forecast":
        """Theil-Sen line (Sen, JASA 63 (1968)) through (lead, trusted final gain) pairs.

        Slope and intercept are held at or above 0: a challenger level with the incumbent is never
        forecast to lose, so a history of failures cannot abort a new edit by itself. Audited
        trials belong in the history. Those aborted before the end do not bias the line, since
        they were left out by their lead, not by their final gain.
        """
        x, y = np.asarray(leads, dtype=float), np.asarray(gains, dtype=float)
        keep = np.isfinite(x) & np.isfinite(y)
        x, y = x[keep], y[keep]
        if x.size < 3:
            raise UsageError("a forecast needs at least 3 finished trials")
        slope, intercept = 0.0, float(np.median(y))
        if np.ptp(x) > 0:
            line = stats.theilslopes(y, x)
            slope = max(0.0, float(line.slope))
            intercept = float(np.median(y - slope * x))
        intercept = max(0.0, intercept)
        residuals = y - intercept - slope * x
        # About zero, not about their median: a line lifted to 0 must own its misfit. The wider
        # of two quantiles, so that heavy tails do not look narrow.
        size = np.quantile(np.abs(residuals), [0.5, 0.9])
        scale = float((size / stats.norm.ppf([0.75, 0.95])).max())
        return cls(
            intercept=intercept,
            slope=slope,
            scale=max(scale, 1e-12),
            centre=float(x.mean()),
            leverage=float(((x - x.mean()) ** 2).sum()),
            trials=int(x.size),
        )

    def gain(self, at: float) -> float:
        """Forecast final gain at a lead."""
        return self.intercept + self.slope * at

    def sigmas(self, at: float) -> float:
        """Forecast gain at a lead over its prediction error, textbook formula for a line."""
        far = (at - self.centre) / math.sqrt(self.leverage) if self.leverage > 0 else 0.0
        return self.gain(at) / (self.scale * math.hypot(1, 1 / math.sqrt(self.trials), far))

    def chance(self, at: float, stretch: float = 1.0) -> float:
        """Chance that the final gain is above 0, its error multiplied by ``stretch``."""
        return float(stats.t.cdf(self.sigmas(at) / stretch, self.trials - 2))


@dataclass(frozen=True, kw_only=True)
class Checkup:
    """What the rule saw and decided at one checkpoint: the row to log."""

    fate: Fate
    fraction: float
    lead: float
    chance: float
    """Forecast chance of an improvement; 0 for a diverged trial, 1 while history is too short."""
    coin: float
    reason: str


@dataclass(frozen=True, kw_only=True)
class AbortRule:
    """When a running trial is stopped on its curve."""

    least_chance: float = 0.05
    min_finished: int = 20
    """Finished trials before the curve may abort anything but divergence."""
    audit_share: float = 0.05
    """Share of would-be aborts that run on."""
    stretch: float = 2.0
    """Factor on the forecast's error for edits of the schedule or the optimizer."""

    def check(
        self,
        challenger: Curve,
        incumbent: Curve,
        finished: Sequence[Finished],
        *,
        coin: float,
        touches_schedule: bool = False,
    ) -> Checkup:
        """Judge a running challenger at the last point of its curve.

        ``incumbent``: its curve on the same rung and seed. ``finished``: earlier trials of this
        rung. ``coin``: uniform in [0, 1), drawn **once per trial** so that an audited trial stays
        one.
        """
        fraction = challenger.fractions[-1]
        ahead, chance, reason = -math.inf, 0.0, f"diverged by {fraction:.0%} of the budget"
        if not challenger.diverged:
            ahead = lead(challenger, incumbent, fraction)
            chance, reason = self._chance(ahead, fraction, finished, touches_schedule)
        fate = Fate.RUN
        if chance < self.least_chance:
            fate = Fate.AUDIT if coin < self.audit_share else Fate.ABORT
        return Checkup(
            fate=fate, fraction=fraction, lead=ahead, chance=chance, coin=coin, reason=reason
        )

    def _chance(
        self, ahead: float, fraction: float, finished: Sequence[Finished], touches_schedule: bool
    ) -> tuple[float, str]:
        """Forecast chance of an improvement, and what to say of it."""
        useful = [trial for trial in finished if math.isfinite(trial.gain)]
        if len(useful) < self.min_finished:
            return 1.0, f"only {len(useful)} finished trials to compare with"
        leads = [lead(trial.challenger, trial.incumbent, fraction) for trial in useful]
        forecast = Forecast.fit(leads, [trial.gain for trial in useful])
        chance = forecast.chance(ahead, self.stretch if touches_schedule else 1.0)
        return chance, f"chance of an improvement {chance:.3f} at {fraction:.0%} of the budget"
