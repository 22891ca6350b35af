"""The spectra of one experiment as the ledger holds them: a compact table and a small heat map.

Advisory: measured inside sandboxes that run foreign code, explained beside the score, never in it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.colors import LogNorm, Normalize, TwoSlopeNorm
from matplotlib.figure import Figure

from nightlab.errors import LedgerError, boundary
from nightlab.memory.ledger import Ledger
from nightlab.memory.records import JSON, Spectrum

TABLE = "thirds"
"""Layer name of the row that holds the compact table."""
THIRDS = ("early", "mid", "late")
SHOWN = (
    ("pr_pre", "PR/D before"),
    ("pr_post", "PR/D after"),
    ("log_gain", "log gain"),
    ("eee_post", "EEE after"),
    ("js", "JS"),
)
FAR = 2.0
"""z-scores beyond it are worth a look."""


class Shown(NamedTuple):
    """One cell of the compact table."""

    value: float
    z: float | None
    """Against the incumbent's runs at the same step; None where they cannot be compared."""

    def __str__(self) -> str:
        return f"{self.value:.3f}" + ("" if self.z is None else f" ({self.z:+.1f})")


@dataclass(frozen=True)
class Told:
    """What is stored of one experiment."""

    trial: str
    step: int
    values: Mapping[str, JSON]
    """The compact table's document."""
    layers: tuple[Spectrum, ...]
    """The trial's rows, one for each layer and step."""

    @property
    def rows(self) -> Iterable[tuple[str, list[Shown | None]]]:
        """Depth third and its cells in the order of ``SHOWN``."""
        for third in THIRDS:
            cells = _mapping(_mapping(self.values.get("thirds")).get(third))
            if cells:
                yield third, [_shown(cells.get(name)) for name, _ in SHOWN]

    @property
    def caption(self) -> str:
        """What the table is of, and against what."""
        trials = self.values.get("trials")
        count = len(trials) if isinstance(trials, Sequence) else 1
        head = f"mean of {count} trial{'' if count == 1 else 's'} on {self.values.get('rung')}"
        head += f", step {self.step}, N={self.values.get('n')}"
        runs = self.values.get("incumbent_runs")
        if not self.values.get("comparable"):
            return f"{head}; {self.values.get('against')} has other sizes or steps: no z-scores"
        whose = "the baseline's spread" if self.values.get("borrowed_deviation") else "its spread"
        beside = f"{runs} run{'' if runs == 1 else 's'} of {self.values.get('against')}"
        return f"{head}; (z) against {beside} at this step, in {whose} from seed to seed"

    @property
    def remarks(self) -> list[str]:
        """Patterns that the table shows, and why it may be doubted."""
        patterns, doubts = self.values.get("patterns"), self.values.get("doubts")
        return [f"pattern: {text}" for text in _texts(patterns)] + [
            f"doubtful: {text}" for text in _texts(doubts)
        ]

    @property
    def document(self) -> dict[str, JSON]:
        """For ``--json``."""
        return {"trial": self.trial, "step": self.step, **self.values}


def told(ledger: Ledger, experiment: str) -> Told | None:
    """An experiment's newest compact table and the layers behind it; None where none is stored."""
    best: Spectrum | None = None
    for trial in ledger.trials(experiment=experiment):
        for row in ledger.spectra(trial.id, layer=TABLE):
            best = row
    if best is None:
        return None
    layers = tuple(row for row in ledger.spectra(best.trial) if row.layer != TABLE)
    return Told(best.trial, best.step, best.values, layers)


def draw(seen: Told, path: Path) -> None:
    """Heat maps layer by step as a PNG. Raises LedgerError when it cannot be written."""
    steps = sorted({row.step for row in seen.layers})
    layers = list(dict.fromkeys(row.layer for row in sorted(seen.layers, key=_depth)))
    height = 1.5 + min(4.0, 0.28 * len(layers))
    figure = Figure(figsize=(10, height), dpi=160, layout="constrained")
    panels = (("PR/D after", _share), ("log2 PR gain", _gain), ("1 - EEE after", _spread))
    for axes, (title, number) in zip(figure.subplots(1, 3, sharey=True), panels, strict=True):
        grid = np.full((len(layers), len(steps)), np.nan)
        for row in seen.layers:
            value = number(_mapping(row.values.get("post")))
            if value is not None:
                grid[layers.index(row.layer), steps.index(row.step)] = value
        mesh = axes.pcolormesh(
            np.arange(len(steps) + 1) - 0.5,
            np.arange(len(layers) + 1) - 0.5,
            grid,
            norm=_norm(grid, title),
            cmap="RdBu_r" if "gain" in title else "viridis",
        )
        bar = axes.figure.colorbar(mesh, ax=axes, pad=0.02)
        bar.ax.tick_params(labelsize=7)
        axes.set_title(title, fontsize=10)
        every = max(1, len(steps) // 6)
        axes.set_xticks(range(0, len(steps), every), [str(s) for s in steps[::every]], fontsize=8)
        axes.set_yticks(range(len(layers)), layers, fontsize=8)
        axes.set_ylim(len(layers) - 0.5, -0.5)
        axes.set_facecolor("#dddddd")
        axes.set_xlabel("step", fontsize=9)
    figure.axes[0].set_ylabel("layer", fontsize=9)
    figure.suptitle(f"Feed-forward spectra of {seen.trial}", fontsize=11)
    with boundary(LedgerError, f"writing {path}"):
        figure.savefig(path)


def _norm(grid: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]", title: str) -> Normalize:
    finite = grid[np.isfinite(grid)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.1, 1.0)
    if "gain" in title:
        reach = max(abs(low), abs(high), 1e-3)
        return TwoSlopeNorm(0.0, -reach, reach)
    wide = low > 0 and high > 10 * low
    return LogNorm(low, high) if wide else Normalize(low, max(high, low + 1e-6))


def _share(post: Mapping[str, JSON]) -> float | None:
    pr, width = post.get("pr_corrected"), post.get("d")
    whole = isinstance(pr, float | int) and isinstance(width, int) and width > 0
    return float(pr) / width if whole else None  # type: ignore[arg-type, operator]


def _gain(post: Mapping[str, JSON]) -> float | None:
    gain = post.get("pr_gain_corrected")
    return float(np.log2(gain)) if isinstance(gain, float | int) and gain > 0 else None


def _spread(post: Mapping[str, JSON]) -> float | None:
    eee = post.get("eee")
    return max(1e-4, 1 - float(eee)) if isinstance(eee, float | int) else None


def _depth(row: Spectrum) -> tuple[int, str]:
    number = row.layer.split(":")[0].split(".")[0]
    return (int(number) if number.isdecimal() else 0, row.layer)


def _mapping(value: JSON) -> Mapping[str, JSON]:
    return value if isinstance(value, Mapping) else {}


def _texts(value: JSON) -> list[str]:
    return [str(each) for each in value] if isinstance(value, Sequence) else []


def _shown(cell: JSON) -> Shown | None:
    entry = _mapping(cell)
    value, z = entry.get("value"), entry.get("z")
    if not isinstance(value, float | int):
        return None
    return Shown(float(value), float(z) if isinstance(z, float | int) else None)
