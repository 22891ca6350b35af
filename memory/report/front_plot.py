"""The Pareto front as a picture: the goal's own metric against each other metric that it names."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nightlab.errors import LedgerError, boundary
from nightlab.memory.report.front import Front, Point
from nightlab.memory.report.plot import BASELINE, BLUE, OF_VERDICT, ORANGE, Mark, legend
from nightlab.vocabulary import Direction, Verdict

ACROSS = 3
"""Panels beside each other."""
NAMED = 8
"""Points of one panel that are labelled."""


def draw(shown: Front, path: Path, title: str) -> None:
    """Write the picture as a PNG. Raises LedgerError when it cannot be written."""
    others = range(1, len(shown.metrics))
    across = min(ACROSS, len(others))
    down = -(-len(others) // across)
    size = (4.2 * across + 1.8, 3.6 * down + 0.9)
    figure = Figure(figsize=size, dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(down, across, squeeze=False)
    for axes in grid.flat[len(others) :]:
        axes.set_axis_off()
    for axes, other in zip(grid.flat, others, strict=False):
        _panel(axes, shown, other)
    told = shorten(title, 44 * across + 28, placeholder=" ...")
    figure.suptitle(told, fontsize=11, x=0.01, ha="left")
    legend(figure, grid.flat[: len(others)])
    with boundary(LedgerError, f"writing {path}"):
        figure.savefig(path)


def staircase(
    points: Sequence[tuple[float, float]], ways: tuple[Direction, Direction]
) -> list[tuple[float, float]]:
    """Those that no other beats on both, from the best x to the best y."""
    x_sign, y_sign = ways[0].sign, ways[1].sign
    kept: list[tuple[float, float]] = []
    for x, y in sorted(set(points), key=lambda p: (-x_sign * p[0], -y_sign * p[1])):
        if not kept or y_sign * y > y_sign * kept[-1][1]:
            kept.append((x, y))
    return kept


def _panel(axes: Axes, shown: Front, other: int) -> None:
    ways = shown.directions[other], shown.directions[0]
    axes.set_xlabel(_axis(shown.metrics[other], ways[0]), fontsize=9)
    axes.set_ylabel(_axis(shown.metrics[0], ways[1]), fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#E6E6E6", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.margins(0.14)
    for point in shown.points:
        drawn = _mark(point)
        axes.scatter(
            [point.values[other]],
            [point.values[0]],
            marker=drawn.marker,
            s=drawn.size + 10,
            facecolors=drawn.colour if drawn.filled else "none",
            edgecolors=drawn.colour,
            alpha=1.0 if point.on_front or point.experiment.number == 0 else 0.45,
            linewidths=1.2,
            zorder=drawn.layer,
            label=drawn.label,
        )
    bound = shown.bounds.get(shown.metrics[other])
    if bound is not None:
        axes.axvline(
            bound, color=ORANGE, linewidth=1.1, linestyle=(0, (4, 3)), label="the goal's bound"
        )
    _front(axes, [(p.values[other], p.values[0]) for p in shown.points], ways)
    _names(axes, shown, other)


def _front(
    axes: Axes, points: Sequence[tuple[float, float]], ways: tuple[Direction, Direction]
) -> None:
    """What is reached in these two metrics, drawn to the worse edges."""
    limits = axes.get_xlim(), axes.get_ylim()
    steps = staircase(points, ways)
    worst_x, worst_y = (
        low if way is Direction.HIGHER else high
        for way, (low, high) in zip(ways, limits, strict=True)
    )
    line = [(steps[0][0], worst_y), *steps, (worst_x, steps[-1][1])]
    xs, ys = zip(*line, strict=True)
    axes.step(xs, ys, where="post", color=BLUE, linewidth=1.6, alpha=0.6, label="front", zorder=2)
    axes.set_xlim(limits[0])
    axes.set_ylim(limits[1])


def _names(axes: Axes, shown: Front, other: int) -> None:
    """The ids of the front's programs, each kept clear of the one before."""
    front = [p for p in shown.points if p.on_front or p.experiment.number == 0]
    places = [(p.values[other], p.values[0], p.experiment) for p in front[:NAMED]]
    for turn, (x, y, experiment) in enumerate(sorted(places, key=lambda p: (p[0], p[1]))):
        axes.annotate(
            "baseline" if experiment.number == 0 else experiment.id,
            (x, y),
            xytext=(5, 6 if turn % 2 == 0 else -11),
            textcoords="offset points",
            fontsize=8,
            color=BLUE if experiment.verdict is Verdict.CONFIRMED else "#444444",
        )


def _mark(point: Point) -> Mark:
    if point.experiment.number == 0:
        return BASELINE
    return OF_VERDICT[point.experiment.verdict or Verdict.DISCARDED]


def _axis(metric: str, way: Direction) -> str:
    return f"{metric} ({way} is better)"
