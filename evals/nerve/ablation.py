"""What spectra add to a prediction: errors on runs left out, without and with them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nightlab.evals.nerve import trends
from nightlab.evals.nerve.trends import Interval

Floats = NDArray[np.float64]
SEEDS = 10
"""Draws of the folds. The intervals over them say how much the split matters, and not how much
another set of runs would."""


@dataclass(frozen=True)
class Ablation:
    """Root mean squared errors of ridge regression on groups left out."""

    runs: int
    groups: int
    spread: float
    """Standard deviation of the target: the error of knowing nothing."""
    without: Interval
    with_spectra: Interval
    spectra_alone: Interval
    change: Interval
    """With less without, paired by split: negative where spectra help."""

    def lines(self, unit: str) -> list[str]:
        """The result in words."""
        verdict = "help" if self.change.high < 0 else "hurt" if self.change.low > 0 else "no matter"
        return [
            f"{self.runs} runs of {self.groups} programs, target spread {self.spread:.4f} {unit}",
            f"error without spectra {_text(self.without)}, with {_text(self.with_spectra)}, "
            f"spectra alone {_text(self.spectra_alone)}",
            f"change {_text(self.change, '+')} {unit}: spectra {verdict}",
        ]


def ablate(
    plain: Floats, spectra: Floats, target: Floats, groups: Sequence[object], seeds: int = SEEDS
) -> Ablation:
    """Predict ``target`` [runs] from ``plain`` [runs, F], from ``spectra`` [runs, S], from both.

    Runs of one group are left out together; nan in a column reads as the column's mean.
    """
    known, told = _filled(plain), _filled(spectra)
    sides = {"without": known, "alone": told, "both": np.hstack([known, told])}
    errors = {
        name: [
            trends.prediction_error(side, target, seed=seed, groups=groups) for seed in range(seeds)
        ]
        for name, side in sides.items()
    }
    change = [b - a for a, b in zip(errors["without"], errors["both"], strict=True)]
    return Ablation(
        runs=len(target),
        groups=len(set(groups)),
        spread=float(np.std(target, ddof=1)),
        without=trends.mean_interval(errors["without"]),
        with_spectra=trends.mean_interval(errors["both"]),
        spectra_alone=trends.mean_interval(errors["alone"]),
        change=trends.mean_interval(change),
    )


def _filled(table: Floats) -> Floats:
    """The table without columns of nothing, and with means where a number is missing."""
    kept = table[:, np.isfinite(table).any(axis=0)]
    means = np.nanmean(kept, axis=0) if kept.size else np.zeros(0)
    filled: Floats = np.where(np.isfinite(kept), kept, means)
    return filled


def _text(interval: Interval, sign: str = "") -> str:
    low, high = (format(value, f"{sign}.4f") for value in (interval.low, interval.high))
    return f"{interval.value:{sign}.4f} [{low}, {high}]"
