"""Honest correlations: with intervals, without shared trends, and beside the plain baselines.

Two curves that both drift with training correlate whatever they are. So a correlation within a
run is shown beside that of first differences and that of the step count alone; and across runs, at
one equal step, by ranks, with what remains after the loss at that step is accounted for.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
STRENGTHS = tuple(np.logspace(-2, 3, 12).tolist())
"""Ridge strengths that a prediction chooses from."""


class Interval(NamedTuple):
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


def mean_interval(values: Sequence[float]) -> Interval:
    """Mean with Student's 95 % interval over independent repeats; infinite for one repeat."""
    x = np.asarray(values, dtype=float)
    if len(x) < 2:
        return Interval(float(x.mean()), -np.inf, np.inf)
    half = float(stats.t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x)))
    return Interval(float(x.mean()), float(x.mean()) - half, float(x.mean()) + half)


def correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Pearson's r; nan where either side is constant or shorter than 3."""
    x, y = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])


class WithinRun(NamedTuple):
    """Correlation of a metric with the loss over one run's checkpoints."""

    raw: float
    detrended: float
    """Of first differences per unit of log step: the shared drift removed."""
    step_alone: float
    """Of the log step count with the loss: what a clock achieves."""


def within_run(steps: Sequence[int], metric: Sequence[float], loss: Sequence[float]) -> WithinRun:
    """Raw and detrended correlation of a metric with the loss, and that of the step count."""
    clock = np.log(np.asarray(steps, dtype=float))
    gap = np.diff(clock)
    return WithinRun(
        correlation(metric, loss),
        correlation((np.diff(metric) / gap).tolist(), (np.diff(loss) / gap).tolist()),
        correlation(clock.tolist(), loss),
    )


def rank_correlation(
    a: Sequence[float],
    b: Sequence[float],
    given: Sequence[float] | None = None,
    *,
    groups: Sequence[object] | None = None,
    seed: int = 0,
) -> Interval:
    """Spearman's rho over runs with a bootstrap interval (2,000 draws).

    With ``given``, the partial rank correlation: both sides' ranks less their regression on the
    ranks of ``given``. With ``groups``, one label a run, whole groups are drawn: repeats of one
    configuration are not independent runs.
    """
    columns = [
        np.asarray(each, dtype=float) for each in ((a, b) if given is None else (a, b, given))
    ]
    table = np.column_stack(columns)
    rng = np.random.default_rng(seed)
    parts = _members(groups, len(table))
    draws = []
    for _ in range(2000):
        drawn = rng.integers(len(parts), size=len(parts))
        draws.append(_partial(table[np.concatenate([parts[at] for at in drawn])]))
    low, high = np.nanquantile(draws, [0.025, 0.975])
    return Interval(_partial(table), float(low), float(high))


def _partial(table: Floats) -> float:
    ranks = np.column_stack([stats.rankdata(column) for column in table.T])
    ranks -= ranks.mean(0)
    if ranks.shape[1] == 3:
        z = ranks[:, 2]
        norm = float(z @ z)
        if norm == 0:
            return float("nan")
        ranks = ranks[:, :2] - np.outer(z, z @ ranks[:, :2]) / norm
    return correlation(ranks[:, 0].tolist(), ranks[:, 1].tolist())


def _members(groups: Sequence[object] | None, runs: int) -> list[Rows]:
    """Row numbers of each group; every row its own group where none are given."""
    if groups is None:
        return [np.array([at]) for at in range(runs)]
    return [np.flatnonzero([label == each for each in groups]) for label in dict.fromkeys(groups)]


def prediction_error(
    features: Floats,
    target: Floats,
    *,
    seed: int,
    folds: int = 5,
    groups: Sequence[object] | None = None,
) -> float:
    """Root mean squared error of :func:`left_out`."""
    off = left_out(features, target, seed=seed, folds=folds, groups=groups)
    return float(np.sqrt((off**2).mean()))


def left_out(
    features: Floats,
    target: Floats,
    *,
    seed: int,
    folds: int = 5,
    groups: Sequence[object] | None = None,
) -> Floats:
    """What ridge regression is off by, [runs], each run left out once, folds drawn by ``seed``.

    ``features`` [runs, F], ``target`` [runs]. Runs of one group are left out together. The ridge
    strength is chosen within the training folds by leaving out one group at a time, so adding
    useless features costs something but not everything.
    """
    members = _members(groups, len(target))
    order = np.random.default_rng(seed).permutation(len(members))
    off = np.zeros(len(target))
    for fold in np.array_split(order, folds):
        inner = [members[at] for at in order if at not in fold]
        rest, part = np.concatenate(inner), np.concatenate([members[at] for at in fold])
        strength = min(
            STRENGTHS,
            key=lambda s: sum(
                float(np.sum(_residual(features, target, np.setdiff1d(rest, out), out, s) ** 2))
                for out in inner
            ),
        )
        off[part] = _residual(features, target, rest, part, strength)
    return off


def change_interval(
    before: Floats, after: Floats, groups: Sequence[object], *, seed: int = 0
) -> Interval:
    """Change of the root mean squared error, with a bootstrap interval over groups (2,000 draws).

    ``before`` and ``after`` are squared errors of the same runs, [runs].
    """
    rng, parts = np.random.default_rng(seed), _members(groups, len(before))

    def change(rows: Rows) -> float:
        return float(np.sqrt(after[rows].mean()) - np.sqrt(before[rows].mean()))

    draws = [
        change(np.concatenate([parts[at] for at in rng.integers(len(parts), size=len(parts))]))
        for _ in range(2000)
    ]
    low, high = np.quantile(draws, [0.025, 0.975])
    return Interval(change(np.arange(len(before))), float(low), float(high))


def _residual(features: Floats, target: Floats, rest: Rows, part: Rows, strength: float) -> Floats:
    """Prediction less target on ``part`` of a ridge fit on ``rest``, standardised there."""
    centre, scale = features[rest].mean(0), features[rest].std(0) + 1e-12
    x, x_out = (features[rest] - centre) / scale, (features[part] - centre) / scale
    y = target[rest]
    inner = x.T @ x + strength * np.eye(x.shape[1])
    weights = np.linalg.solve(inner, x.T @ (y - y.mean()))
    found: Floats = x_out @ weights + y.mean() - target[part]
    return found
