"""Pictures of spectra: layers by steps for a run, layers by eigenvalue rank for a model at rest.

Every picture is drawn without a display and written as a PNG.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize, PowerNorm, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from nightlab.errors import UsageError
from nightlab.evals.nerve.probe import At, Report
from nightlab.evals.nerve.readings import Reading, comparable

Grid = NDArray[np.float64]
COLOURS = ("#0b6e99", "#d1495b")
"""First and second model."""
MOST_TICKS = 6
"""Steps that are written below a heat map."""


Scale = Literal["even", "log", "root", "centred"]


class Panel(NamedTuple):
    """One heat map: which number of which place, and how it is coloured."""

    title: str
    place: str
    number: Callable[[Reading], float | None]
    colours: str
    scale: Scale
    """``centred`` puts zero in the middle; ``log`` and ``root`` keep small values apart."""


def _share(reading: Reading) -> float | None:
    return None if reading.pr_corrected is None else reading.pr_corrected / reading.d


def _gain(reading: Reading) -> float | None:
    gain = reading.pr_gain_corrected
    return float(np.log2(gain)) if gain and gain > 0 else None


def _spread(reading: Reading) -> float | None:
    return None if reading.eee is None else max(1e-4, 1 - reading.eee)


PANELS = (
    Panel("PR before / D", "pre", _share, "viridis", "log"),
    Panel("PR after / D", "post", _share, "viridis", "log"),
    Panel("log2 PR gain", "post", _gain, "RdBu_r", "centred"),
    Panel("1 - EEE after", "post", _spread, "magma", "log"),
    Panel("JS divergence", "post", lambda r: r.js, "cividis", "root"),
)


def heat_maps(runs: Mapping[str, Sequence[Reading]], out: Path) -> Path:
    """Layer-by-step heat maps of one run, or of two with their difference below; writes ``out``.

    UsageError for no run, more than two, a run without readings, or two runs whose spectra are of
    different size and so cannot be compared.
    """
    if not 1 <= len(runs) <= 2 or not all(runs.values()):
        raise UsageError("heat maps show one run, or compare two, with spectra in each")
    names, readings = list(runs), list(runs.values())
    if len(runs) == 2:
        comparable(*readings)
    grids = [[_grid(each, panel) for panel in PANELS] for each in readings]
    rows = len(runs) if len(runs) == 1 else 3
    figure = Figure(figsize=(3.1 * len(PANELS), 1.1 + 2.1 * rows), layout="constrained", dpi=150)
    axes = figure.subplots(rows, len(PANELS), squeeze=False)
    for column, panel in enumerate(PANELS):
        norm = _norm([grid[column] for grid in grids], panel.scale)
        for row, grid in enumerate(grids):
            _draw(axes[row, column], grid[column], norm, panel.colours)
        if len(runs) == 2:
            _draw_difference(axes[2, column], grids[0][column], grids[1][column])
        axes[0, column].set_title(panel.title, fontsize=11)
        axes[-1, column].set_xlabel("step")
    for row, name in enumerate([*names, "second - first"][:rows]):
        axes[row, 0].set_ylabel(f"{name}\nlayer", fontsize=10)
    sizes = sorted({r.size for r in readings[0] if r.n and r.place in ("pre", "post")})
    shown = "; ".join(f"N={n}, D={d}" for n, d in sizes[:4])
    figure.suptitle(f"Feed-forward spectra by layer and step ({shown})", fontsize=12)
    return _save(figure, out)


class _Cells(NamedTuple):
    values: Grid
    """[layers, steps], nan where nothing was measured."""
    steps: Grid


def _grid(readings: Sequence[Reading], panel: Panel) -> _Cells:
    cells: dict[tuple[int, int], list[float]] = defaultdict(list)
    for reading in readings:
        value = panel.number(reading) if reading.place == panel.place and reading.d else None
        if value is not None:
            cells[reading.layer, reading.step].append(value)
    steps = sorted({r.step for r in readings})
    depth = 1 + max(r.layer for r in readings)
    values = np.full((depth, len(steps)), np.nan)
    for (layer, step), found in cells.items():
        values[layer, steps.index(step)] = np.mean(found)
    return _Cells(values, np.array(steps, dtype=float))


def _norm(grids: Sequence[_Cells], scale: Scale) -> Normalize:
    values = np.concatenate([grid.values.ravel() for grid in grids])
    values = values[np.isfinite(values)]
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    if scale == "centred":
        reach = max(abs(low), abs(high), 1e-6)
        return TwoSlopeNorm(0.0, -reach, reach)
    if scale == "log" and low > 0:
        return LogNorm(low, max(high, low * 1.001))
    high = max(high, low + 1e-6)
    return PowerNorm(0.5, max(0.0, low), high) if scale == "root" else Normalize(low, high)


def _draw(axes: Axes, cells: _Cells, norm: Normalize, colours: str) -> None:
    """A column for each report: early ones lie close together, and say the most."""
    columns, rows = (np.arange(size + 1) - 0.5 for size in reversed(cells.values.shape))
    mesh = axes.pcolormesh(columns, rows, cells.values, norm=norm, cmap=colours)
    bar = axes.figure.colorbar(mesh, ax=axes, pad=0.02, aspect=14)
    if isinstance(norm, LogNorm):
        span = float(norm.vmax or 1) / float(norm.vmin or 1)
        bar.ax.yaxis.set_major_locator(
            LogLocator(subs=(1, 2, 5) if span > 3 else (1, 1.5, 2, 3, 5))
        )
        bar.ax.yaxis.set_major_formatter("{x:g}")
        bar.ax.yaxis.set_minor_formatter(NullFormatter())
    bar.ax.tick_params(labelsize=7, which="both")
    axes.invert_yaxis()
    axes.set_yticks(range(0, cells.values.shape[0], max(1, cells.values.shape[0] // 8)))
    axes.set_facecolor("#dddddd")
    last = len(cells.steps) - 1
    shown = np.unique(np.linspace(0, last, min(last + 1, MOST_TICKS)).round().astype(int))
    axes.set_xticks(shown, [f"{cells.steps[at]:g}" for at in shown], fontsize=8)


def _draw_difference(axes: Axes, first: _Cells, second: _Cells) -> None:
    shared = np.intersect1d(first.steps, second.steps)
    depth = min(len(first.values), len(second.values))
    if not len(shared):
        axes.text(0.5, 0.5, "no common step", ha="center", transform=axes.transAxes)
        return
    a = first.values[:depth, np.isin(first.steps, shared)]
    b = second.values[:depth, np.isin(second.steps, shared)]
    cells = _Cells(b - a, shared)
    _draw(axes, cells, _norm([cells], "centred"), "PuOr_r")


def portrait(models: Mapping[str, Report], out: Path) -> Path:
    """One or two models at rest: spectra by layer and rank, PR before and after, JS and EEE.

    Writes ``out``. UsageError for no model, or more than two.
    """
    if not 1 <= len(models) <= 2:
        raise UsageError("a portrait shows one model, or two side by side")
    depth = max(1 + max(r.layer for r in report.readings) for report in models.values())
    height = max(2.4, 0.9 + 0.26 * depth)
    figure = Figure(figsize=(13, 0.8 + height * len(models)), layout="constrained", dpi=150)
    grid = figure.add_gridspec(len(models), 4, width_ratios=[1.4, 1.4, 1.2, 0.9])
    ratios, divergence = figure.add_subplot(grid[:, 2]), figure.add_subplot(grid[:, 3])
    every = [ratios, divergence]
    for number, (name, report) in enumerate(models.items()):
        for at, place in enumerate(("pre", "post")):
            axes = figure.add_subplot(grid[number, at])
            _draw_spectra(axes, report, place)
            when = "before" if place == "pre" else "after"
            axes.set_title(f"{name}: {when} activation", fontsize=10, color=COLOURS[number])
            every.append(axes)
        _draw_ratios(ratios, report, COLOURS[number], name, number, len(models))
        _draw_divergence(divergence, report, COLOURS[number], number, len(models))
    ratios.set_title("PR/D: before → after", fontsize=10)
    divergence.set_title("JS divergence", fontsize=10)
    for each in every:
        each.set_ylim(depth - 0.4, -0.6)
        each.set_yticks(range(0, depth, max(1, depth // 12)))
    every[2].set_ylabel("layer")
    if len(models) > 1:
        ratios.legend(fontsize=8, loc="best", frameon=False)
    sizes = sorted(
        {r.size for m in models.values() for r in m.readings if r.n and r.place == "post"}
    )
    shown = "; ".join(f"N={n}, D={d}" for n, d in sizes[:4])
    figure.suptitle(
        f"Feed-forward spectra by layer ({shown}; bars: 95 % over probe batches)", fontsize=11
    )
    return _save(figure, out)


def _draw_spectra(axes: Axes, report: Report, place: str) -> None:
    """Layer by rank: each eigenvalue's share against an even spread, in powers of ten."""
    by_layer: dict[int, list[Grid]] = defaultdict(list)
    for reading, lam in zip(report.readings, report.eigenvalues, strict=True):
        if reading.place == place and lam is not None and float(lam[0]) > 0:
            share = lam.numpy() / float(lam.sum()) * len(lam)
            by_layer[reading.layer].append(share[: min(reading.n - 1, reading.d)])
    longest = max(len(s) for shares in by_layer.values() for s in shares)
    ranks = np.unique(np.geomspace(1, longest, 96).astype(int))
    image = np.full((1 + max(by_layer), len(ranks)), np.nan)
    for layer, shares in by_layer.items():
        rows = [np.interp(ranks, np.arange(1, len(s) + 1), s, right=np.nan) for s in shares]
        image[layer] = np.log10(np.maximum(np.mean(rows, axis=0), 1e-4))
    edges = np.concatenate([[ranks[0] * 0.9], np.sqrt(ranks[1:] * ranks[:-1]), [ranks[-1] * 1.1]])
    rows_at = np.arange(len(image) + 1) - 0.5
    norm = TwoSlopeNorm(0.0, -2.5, 2.0)
    mesh = axes.pcolormesh(edges, rows_at, image, norm=norm, cmap="RdYlBu_r")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("eigenvalue rank")
    axes.set_facecolor("#dddddd")
    bar = axes.figure.colorbar(mesh, ax=axes, pad=0.02, aspect=18, ticks=[-2, -1, 0, 1, 2])
    bar.set_label("share of variance", fontsize=7)
    bar.ax.set_yticklabels(["1/100", "1/10", "even", "10×", "100×"], fontsize=7)


def _draw_ratios(
    axes: Axes, report: Report, colour: str, name: str, number: int, models: int
) -> None:
    shift = (number - (models - 1) / 2) * 0.3
    for label, (layer, before, after) in enumerate(_pairs(report)):
        at = layer + shift
        axes.annotate(
            "", (after[0], at), (before[0], at), arrowprops={"arrowstyle": "-|>", "color": colour}
        )
        axes.plot(
            before[0], at, "o", mfc="white", mec=colour, ms=5, label=name if label == 0 else None
        )
        axes.plot([after[1], after[2]], [at, at], color=colour, lw=3, alpha=0.35)
    axes.margins(x=0.06)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.set_xlabel("corrected PR / D")
    axes.grid(axis="x", alpha=0.25)


def _pairs(
    report: Report,
) -> list[tuple[int, tuple[float, float, float], tuple[float, float, float]]]:
    """Layer, and PR/D before and after with limits, averaged over a layer's feed-forwards."""
    widths: dict[At, int] = {(r.layer, r.expert, r.path, r.place): r.d for r in report.readings}
    cells: dict[tuple[int, str], list[tuple[float, float, float]]] = defaultdict(list)
    for at, numbers in report.intervals().items():
        if at[3] in ("pre", "post") and "pr_corrected" in numbers:
            interval = numbers["pr_corrected"]
            low, high = (
                (interval.low, interval.high)
                if np.isfinite(interval.low)
                else (interval.value, interval.value)
            )
            cells[at[0], at[3]].append(
                (interval.value / widths[at], low / widths[at], high / widths[at])
            )
    layers = sorted({layer for layer, _ in cells})
    mean = {at: tuple(np.mean(found, axis=0)) for at, found in cells.items()}
    return [(n, mean[n, "pre"], mean[n, "post"]) for n in layers if (n, "post") in mean]


def _draw_divergence(axes: Axes, report: Report, colour: str, number: int, models: int) -> None:
    height = 0.7 / models
    by_layer: dict[int, list[float]] = defaultdict(list)
    for reading in report.readings:
        if reading.js is not None:
            by_layer[reading.layer].append(reading.js)
    layers = sorted(by_layer)
    at = [layer + (number - (models - 1) / 2) * height for layer in layers]
    axes.barh(at, [float(np.mean(by_layer[n])) for n in layers], height, color=colour, alpha=0.85)
    axes.set_xlabel("nats")
    axes.grid(axis="x", alpha=0.25)


def _save(figure: Figure, out: Path) -> Path:
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out)
    return out
