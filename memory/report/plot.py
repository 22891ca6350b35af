"""The best-so-far curve: every trial as a dot, one panel per rung, the dearest rung on top.

Colours are Okabe and Ito's, which stay apart for the colour-blind; marks differ in shape too.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nightlab.errors import LedgerError, boundary
from nightlab.memory.records import Arm, Dot
from nightlab.memory.report.details import Details
from nightlab.memory.report.intervals import Interval, mean, spread
from nightlab.vocabulary import Direction, Purpose, Verdict

BLUE, SKY, ORANGE, RED, GREY, BLACK = (
    "#0072B2",
    "#56B4E9",
    "#E69F00",
    "#D55E00",
    "#9A9A9A",
    "#222222",
)


@dataclass(frozen=True)
class Mark:
    """How one kind of trial is drawn."""

    label: str
    marker: str
    size: float
    colour: str
    filled: bool
    layer: int


BASELINE = Mark("baseline", "s", 22, BLACK, False, 3)
RERUN = Mark("incumbent re-run", "+", 30, BLACK, True, 3)
CONFIRMED = Mark("confirmed", "o", 46, BLUE, True, 6)
CLOSING = Mark("closing comparison", "o", 40, BLUE, False, 6)
SCREENED = Mark("screened only", "D", 28, SKY, True, 5)
DISCARDED = Mark("discarded", "o", 16, GREY, True, 2)
REFUSED = Mark("rejected by a probe", "v", 30, ORANGE, True, 4)
FAILED = Mark("failed or aborted, no score", "x", 30, RED, True, 4)
OPEN = Mark("under way", "o", 20, GREY, False, 2)
OF_VERDICT = {
    Verdict.CONFIRMED: CONFIRMED,
    Verdict.SCREENED: SCREENED,
    Verdict.DISCARDED: DISCARDED,
    Verdict.REJECTED: REFUSED,
    Verdict.FAILED: FAILED,
    Verdict.INVALID: FAILED,
}


def draw(details: Details, path: Path) -> None:
    """Write the curve as a PNG, 1600 pixels wide. Raises LedgerError when it cannot be written."""
    rungs = list(reversed(details.rungs)) or ["(no trial yet)"]
    figure = Figure(figsize=(10, 2.0 + 3.2 * len(rungs)), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    ratios = [1.6 if place == 0 and len(rungs) > 1 else 1.0 for place in range(len(rungs))]
    grid = figure.subplots(
        len(rungs), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": ratios}
    )
    for axes, rung in zip(grid[:, 0], rungs, strict=True):
        _panel(axes, details, rung, [dot for dot in details.dots if dot.rung == rung])
    grid[-1, 0].set_xlabel("minutes since the campaign began")
    campaign = details.summary.campaign
    title = shorten(f"{campaign.id}: {campaign.goal}", 100, placeholder=" ...")
    figure.suptitle(title, fontsize=12, x=0.01, ha="left")
    legend(figure, grid[:, 0])
    with boundary(LedgerError, f"writing {path}"):
        figure.savefig(path)


def _panel(axes: Axes, details: Details, rung: str, dots: Sequence[Dot]) -> None:
    objective = details.summary.campaign.objective
    better = "lower" if objective.direction is Direction.LOWER else "higher"
    axes.set_title(f"{rung} rung", fontsize=10, loc="left")
    axes.set_ylabel(f"{objective.metric} ({better} is better)", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#E6E6E6", linewidth=0.6)
    axes.set_axisbelow(True)
    scored = [dot for dot in dots if dot.value is not None]
    level = _baseline(axes, dots)
    if not scored:
        axes.text(0.5, 0.5, "no scored trial", transform=axes.transAxes, ha="center", color=GREY)
        return
    edge = _limits(
        axes, [dot.value for dot in scored if dot.value is not None], level, objective.direction
    )
    _best_so_far(axes, scored, objective.direction)
    if rung == details.summary.rung:
        _incumbents(axes, details, scored)
    for dot in dots:
        _dot(axes, dot, edge, objective.direction)
    _labels(axes, scored, objective.direction)


def _baseline(axes: Axes, dots: Iterable[Dot]) -> tuple[Interval, Interval] | None:
    """The baseline's mean and, shaded, where 95 % of its single trials are expected."""
    values = [d.value for d in dots if d.value is not None and mark(d) is BASELINE]
    middle, noise = mean(values), spread(values)
    if middle is None:
        return None
    axes.axhline(middle.value, color=BLACK, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    if noise is None:
        return None
    low, high = middle.value - 1.96 * noise.value, middle.value + 1.96 * noise.value
    label = "95 % of single baseline trials"
    axes.axhspan(low, high, color="#D9D9D9", alpha=0.6, zorder=0, linewidth=0, label=label)
    return middle, noise


def _limits(
    axes: Axes, values: list[float], level: tuple[Interval, Interval] | None, direction: Direction
) -> float:
    """Scale so that one diverged trial does not flatten the rest; returns the worse edge."""
    sign = direction.sign
    best = max(values, key=lambda value: sign * value)
    worst = min(values, key=lambda value: sign * value)
    if level is not None:
        middle, noise = level[0].value, level[1].value
        room = max(0.35 * abs(best - middle), 6 * noise)
        bound = middle - sign * room
        worst = max(bound, worst) if sign > 0 else min(bound, worst)
        worst = min(worst, middle - 3 * noise) if sign > 0 else max(worst, middle + 3 * noise)
        best = max(best, middle + 2.5 * noise) if sign > 0 else min(best, middle - 2.5 * noise)
    pad = 0.08 * abs(best - worst) or 0.01
    low, high = sorted((best + sign * 1.6 * pad, worst - sign * pad))
    axes.set_ylim(low, high)
    return worst - sign * 0.5 * pad


def _best_so_far(axes: Axes, scored: Sequence[Dot], direction: Direction) -> None:
    """Thin: the best single trial so far, luck included."""
    minutes: list[float] = []
    best: list[float] = []
    for dot in scored:
        if dot.value is None or mark(dot) is REFUSED:
            continue
        minutes.append(dot.minutes)
        better = max if direction is Direction.HIGHER else min
        best.append(better(best[-1], dot.value) if best else dot.value)
    label = "best single trial so far"
    axes.step(minutes, best, where="post", color=GREY, linewidth=1.1, label=label)


def _incumbents(axes: Axes, details: Details, scored: Sequence[Dot]) -> None:
    """Thick: the mean of the incumbent of the time, over trials not picked for their score."""
    start = details.summary.baseline
    if start is None:
        return
    steps = [(scored[0].minutes, start.value)]
    for improvement in details.improvements:
        name = improvement.experiment.id
        own = [d.minutes for d in scored if d.experiment == name and d.purpose is Purpose.CONFIRM]
        if own and improvement.level:
            steps.append((max(own), improvement.level.value))
    steps.append((scored[-1].minutes, steps[-1][1]))
    minutes, levels = zip(*steps, strict=True)
    label = "incumbent, mean of fresh trials"
    axes.step(minutes, levels, where="post", color=BLUE, linewidth=2.6, alpha=0.45, label=label)


def _dot(axes: Axes, dot: Dot, edge: float, direction: Direction) -> None:
    drawn = mark(dot)
    sign = direction.sign
    off = dot.value is None or sign * dot.value < sign * edge
    value = edge if dot.value is None or off else dot.value
    shape = "^" if off and dot.value is not None and sign < 0 else drawn.marker
    line_only = drawn.marker in "x+"
    axes.scatter(
        [dot.minutes],
        [value],
        marker=shape,
        s=drawn.size,
        label=drawn.label,
        zorder=drawn.layer,
        linewidths=1.2,
        facecolors=drawn.colour if drawn.filled or line_only else "none",
        edgecolors=None if line_only else drawn.colour,
        clip_on=False,
    )


def _labels(axes: Axes, scored: Sequence[Dot], direction: Direction) -> None:
    """The experiment's id at the first dot of each confirmed one."""
    below = direction is Direction.LOWER
    named: set[str] = set()
    for dot in scored:
        if (
            mark(dot) is CONFIRMED
            and dot.purpose is Purpose.CONFIRM
            and dot.experiment not in named
        ):
            named.add(dot.experiment)
            axes.annotate(
                dot.experiment,
                (dot.minutes, dot.value or 0.0),
                xytext=(0, -14 if below else 9),
                textcoords="offset points",
                ha="center",
                fontsize=8,
                color=BLUE,
                fontweight="bold",
            )


def legend(figure: Figure, panels: Iterable[Axes]) -> None:
    """Every mark once, under the panels."""
    found: dict[str, Artist] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    if found:
        figure.legend(
            list(found.values()),
            list(found),
            loc="outside lower center",
            ncols=4,
            frameon=False,
            fontsize=9,
        )


def mark(dot: Dot) -> Mark:
    """How a trial is drawn: by its own failure first, then by whose it is and what came of it."""
    if dot.arm is Arm.INCUMBENT:
        return RERUN
    if dot.purpose is Purpose.NOISE or dot.experiment.endswith("-0"):
        return BASELINE if dot.value is not None else FAILED
    if dot.value is None and dot.verdict is not Verdict.REJECTED:
        return FAILED
    if dot.purpose is Purpose.AUDIT:
        return CLOSING
    return OF_VERDICT[dot.verdict] if dot.verdict else OPEN
