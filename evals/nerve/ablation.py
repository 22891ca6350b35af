"""What spectra add to a prediction: errors on runs left out, without and with them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nightlab.evals.nerve import trends
from nightlab.evals.nerve.trends import Interval

Floats = NDArray[np.float64]
SEEDS = 10
"""Draws of the folds. Intervals of errors are over them: they say how much the split matters."""


@dataclass(frozen=True)
class Ablation:
    """Root mean squared errors of ridge regression on groups left out."""

    runs: int
    told: int
    """Runs of which any spectrum was known."""
    groups: int
    spread: float
    """Standard deviation of the target: the error of knowing nothing."""
    without: Interval
    with_spectra: Interval
    spectra_alone: Interval
    change: Interval
    """With less without, squared errors averaged over the draws: negative where spectra help. Its
    interval is over programs, so it says what other programs might have shown."""

    def lines(self, unit: str) -> list[str]:
        """The result in words."""
        verdict = "help" if self.change.high < 0 else "hurt" if self.change.low > 0 else "no matter"
        return [
            f"{self.runs} runs of {self.groups} programs, {self.told} with spectra, "
            f"target spread {self.spread:.4f} {unit}",
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
        name: np.array([
            trends.left_out(side, target, seed=seed, groups=groups) ** 2 for seed in range(seeds)
        ])
        for name, side in sides.items()
    }  # fmt: skip
    means = {
        name: trends.mean_interval(np.sqrt(each.mean(axis=1)).tolist())
        for name, each in errors.items()
    }
    change = trends.change_interval(errors["without"].mean(0), errors["both"].mean(0), groups)
    return Ablation(
        runs=len(target),
        told=int((np.nan_to_num(spectra) != 0).any(axis=1).sum()),
        groups=len(set(groups)),
        spread=float(np.std(target, ddof=1)),
        without=means["without"],
        with_spectra=means["both"],
        spectra_alone=means["alone"],
        change=change,
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
