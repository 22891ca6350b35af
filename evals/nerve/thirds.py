"""Spectra by depth third: the five numbers that the table and the policy see.

A model of any depth becomes early, mid and late. Experts and feed-forwards of one block are
averaged first, then the blocks of a third, so a mixture of experts counts as one layer.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from nightlab.evals.nerve.readings import Reading

Third = Literal["early", "mid", "late"]
Metric = Literal["pr_pre", "pr_post", "log_gain", "eee_post", "js", "se_post"]
THIRDS: tuple[Third, ...] = get_args(Third)
METRICS: tuple[Metric, ...] = get_args(Metric)


@dataclass(frozen=True)
class Summary:
    """One report of spectra, by depth third."""

    step: int
    tokens: int
    """N of every spectrum in it."""
    widths: tuple[int, ...]
    """Hidden width of each layer, by depth."""
    values: Mapping[tuple[Third, Metric], float]
    """pr_pre, pr_post: corrected PR over D; log_gain: ln of PR_post/PR_pre; se_post: SE over ln D.
    A cell without a usable reading is absent."""

    @property
    def size(self) -> tuple[int, tuple[int, ...]]:
        """N, and D by layer: what must agree before two summaries are compared."""
        return self.tokens, self.widths


def third(layer: int, depth: int) -> Third:
    """Which third a layer is in; a single layer is in the middle."""
    return THIRDS[min(2, int(3 * (layer + 0.5) / depth))]


def summaries(readings: Iterable[Reading]) -> tuple[Summary, ...]:
    """One summary for each step measured, in order of steps."""
    by_step: dict[int, list[Reading]] = defaultdict(list)
    for reading in readings:
        by_step[reading.step].append(reading)
    return tuple(_summary(step, by_step[step]) for step in sorted(by_step))


def _summary(step: int, readings: Sequence[Reading]) -> Summary:
    depth = 1 + max(r.layer for r in readings)
    values: dict[tuple[Third, Metric], float] = {}
    for metric, (place, number) in _NUMBERS.items():
        cells: dict[Third, list[float]] = defaultdict(list)
        for layer in range(depth):
            found = [number(r) for r in readings if r.layer == layer and r.place == place]
            usable = [each for each in found if each is not None]
            if usable:
                cells[third(layer, depth)].append(sum(usable) / len(usable))
        for where, layers in cells.items():
            values[where, metric] = sum(layers) / len(layers)
    hidden = [r for r in readings if r.place in ("pre", "post") and r.d]
    widths = {r.layer: r.d for r in hidden}
    tokens = max((r.n for r in hidden), default=0)
    return Summary(step, tokens, tuple(widths.get(at, 0) for at in range(depth)), values)


def _pr_share(reading: Reading) -> float | None:
    """Corrected PR over D, held within its range: the correction's noise can leave it."""
    if reading.pr_corrected is None or not reading.d:
        return None
    return min(1.0, max(1 / reading.d, reading.pr_corrected / reading.d))


def _log_gain(reading: Reading) -> float | None:
    gain = reading.pr_gain_corrected
    return math.log(gain) if gain is not None and gain > 0 else None


def _se_share(reading: Reading) -> float | None:
    return (
        None if reading.entropy is None or reading.d < 2 else reading.entropy / math.log(reading.d)
    )


_NUMBERS: dict[Metric, tuple[str, Callable[[Reading], float | None]]] = {
    "pr_pre": ("pre", _pr_share),
    "pr_post": ("post", _pr_share),
    "log_gain": ("post", _log_gain),
    "eee_post": ("post", lambda r: r.eee),
    "js": ("post", lambda r: r.js),
    "se_post": ("post", _se_share),
}
