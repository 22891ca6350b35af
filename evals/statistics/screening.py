"""Screening: one or two cheap trials decide whether a challenger is worth a confirmation."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from nightlab.errors import UsageError
from nightlab.evals.statistics.noise import NoiseFloor


class Screening(StrEnum):
    """What the screening trials so far say."""

    PROMOTE = "promote"
    REPEAT = "repeat"
    """Promising but within noise: one more screening seed."""
    DISCARD = "discard"


@dataclass(frozen=True, kw_only=True)
class ScreenRule:
    """Margins on the mean gain, in standard deviations of one paired difference."""

    margins: tuple[float, ...] = (0.5, 1.0)
    """Least mean gain after the first, second, ... screening trial; passing the last promotes."""
    promote_at_once: float = 4.0
    """A mean gain this large promotes without a further trial."""

    def __post_init__(self) -> None:
        if not self.margins:
            raise UsageError("a screen needs at least one margin")

    def judge(
        self, gains: NDArray[np.float64], paired_sd: float | NDArray[np.float64]
    ) -> NDArray[np.int8]:
        """+1 promote, 0 repeat, -1 discard, for ``gains`` of shape (..., trials so far)."""
        trials = gains.shape[-1]
        if not 1 <= trials <= len(self.margins):
            raise UsageError(f"this screen takes 1 to {len(self.margins)} trials, not {trials}")
        sigmas = gains.mean(axis=-1) / paired_sd
        passed = 1 if trials == len(self.margins) else 0
        verdict = np.where(sigmas >= self.margins[trials - 1], passed, -1)
        return np.where(sigmas >= self.promote_at_once, 1, verdict).astype(np.int8)


def screen(gains: Sequence[float], noise: NoiseFloor, rule: ScreenRule) -> Screening:
    """Judge the screening gains of one challenger on the rung that ``noise`` belongs to.

    ``gains``: challenger against incumbent on the same screening seed, positive = better, in the
    metric's unit; a failed trial counts as ``-inf``. None of them may enter a confirmation.
    """
    code = rule.judge(np.asarray(gains, dtype=float), noise.paired_sd)
    return {1: Screening.PROMOTE, 0: Screening.REPEAT, -1: Screening.DISCARD}[int(code)]
