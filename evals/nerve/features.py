"""Spectral features of fixed length for a policy that must also do without them.

Five metrics by three thirds on unbounded scales, their slopes over the last reports, N/D and the
share of the budget spent. Every feature has a presence flag, so that a missing probe is not a zero
and a policy can be trained with probes dropped at random.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from nightlab.evals.nerve.thirds import THIRDS, Metric, Summary, Third

SLOPE_REPORTS = 4
_EDGE = 1e-4


def _logit(share: float) -> float:
    inside = min(1 - _EDGE, max(_EDGE, share))
    return math.log(inside / (1 - inside))


SCALES: dict[Metric, Callable[[float], float]] = {
    "pr_pre": _logit,
    "pr_post": _logit,
    "log_gain": lambda gain: max(-6.0, min(6.0, gain)),
    "eee_post": lambda eee: eee,
    "js": lambda js: math.sqrt(max(0.0, js)),
    "se_post": lambda share: share,
}
"""From a summary's value to an unbounded or well-spread scale."""
CELLS: tuple[tuple[Third, Metric], ...] = tuple((w, m) for w in THIRDS for m in SCALES)
NAMES: tuple[str, ...] = (
    *(f"{metric}_{where}" for where, metric in CELLS),
    *(f"{metric}_{where}_slope" for where, metric in CELLS),
    "tokens_per_width",
    "share_of_budget",
)
"""Names of the features, in order."""


@dataclass(frozen=True)
class Features:
    """Values in the order of ``NAMES``; 0 where absent, with ``present`` telling so."""

    values: tuple[float, ...]
    present: tuple[bool, ...]


def features(reports: Sequence[Summary], share_of_budget: float) -> Features:
    """Features of the last of a run's reports; all absent (but the budget) without reports.

    ``share_of_budget`` is in [0, 1]. Slopes are least-squares over the last four reports of equal
    size, per unit of log step.
    """
    found: dict[str, float] = {"share_of_budget": share_of_budget}
    if reports:
        now = reports[-1]
        recent = [r for r in reports if r.size == now.size][-SLOPE_REPORTS:]
        for where, metric in CELLS:
            if (where, metric) in now.values:
                found[f"{metric}_{where}"] = SCALES[metric](now.values[where, metric])
            slope = _slope(recent, (where, metric))
            if slope is not None:
                found[f"{metric}_{where}_slope"] = slope
        widths = [d for d in now.widths if d]
        if widths and now.tokens:
            found["tokens_per_width"] = math.log(now.tokens * len(widths) / sum(widths))
    return Features(
        tuple(found.get(name, 0.0) for name in NAMES), tuple(name in found for name in NAMES)
    )


def dropped(full: Features, rng: random.Random, share: float = 0.3) -> Features:
    """The same with each spectral feature absent with probability ``share``; the budget stays."""
    last = len(NAMES) - 1
    kept = tuple(
        present and (at == last or rng.random() >= share) for at, present in enumerate(full.present)
    )
    values = tuple(value if keep else 0.0 for value, keep in zip(full.values, kept, strict=True))
    return replace(full, values=values, present=kept)


def _slope(reports: Sequence[Summary], cell: tuple[Third, Metric]) -> float | None:
    points = [
        (math.log(r.step), SCALES[cell[1]](r.values[cell]))
        for r in reports
        if cell in r.values and r.step > 0
    ]
    if len(points) < 2:
        return None
    middle = sum(x for x, _ in points) / len(points)
    spread = sum((x - middle) ** 2 for x, _ in points)
    if spread == 0:
        return None
    return sum((x - middle) * y for x, y in points) / spread
