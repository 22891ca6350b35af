"""Pictures of the simulated null and known-answer campaigns."""

from pathlib import Path
from typing import TYPE_CHECKING

from nightlab.evals.bench_null import Bench, Cell

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_null(bench: Bench, path: Path) -> None:
    """False keeps per campaign with their intervals, beside what is allowed."""
    figure, axes = _figure(len(bench["rows"]))
    names = [str(row["noise"]) for row in bench["rows"]]
    for place, row in enumerate(bench["rows"]):
        mean, low, high = (_number(row[k]) for k in _KEEPS)
        axes.errorbar(mean, place, xerr=[[mean - low], [high - mean]], fmt="o", color="#0072B2")
    axes.axvline(1.0, color="#D55E00", linewidth=1, label="at most one a campaign")
    total = _number(bench["settings"]["budget_total"])
    axes.axvline(total, color="black", linewidth=1, linestyle="--", label="the campaign's budget")
    _finish(axes, names, "false keeps per campaign of null edits (95 % interval)")
    axes.set_xlim(0, None)
    figure.savefig(path, dpi=150)


def plot_known(bench: Bench, path: Path) -> None:
    """Power and mean cost over the planted effect, one line per kind of noise."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    power, cost = figure.subplots(1, 2)
    for name in dict.fromkeys(str(row["noise"]) for row in bench["rows"]):
        rows = [row for row in bench["rows"] if row["noise"] == name]
        effects = [_number(row["effect_sigmas"]) for row in rows]
        power.plot(effects, [_number(row["power"]) for row in rows], "o-", label=name)
        cost.plot(effects, [_number(row["mean_trials"]) for row in rows], "o-", label=name)
    power.axhline(0.95, color="black", linewidth=1, linestyle="--")
    power.set_ylabel("share of campaigns that confirm it")
    cost.set_ylabel("trials spent on it, mean")
    for axes in (power, cost):
        axes.set_xlabel("planted gain, sigmas of one trial")
        axes.set_ylim(0, None)
        axes.spines[["top", "right"]].set_visible(False)
    cost.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)


_KEEPS = ("false_keeps", "false_keeps_low", "false_keeps_high")


def _number(cell: Cell) -> float:
    return float(str(cell))


def _figure(rows: int) -> "tuple[Figure, Axes]":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.4 + 0.4 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def _finish(axes: "Axes", names: list[str], label: str) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel(label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
