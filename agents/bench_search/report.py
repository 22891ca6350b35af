"""The bench's plain forms: a table for the terminal and a plot."""

from collections.abc import Sequence
from pathlib import Path

from nightlab.agents.bench_search.claims import Claim
from nightlab.agents.bench_search.protocol import Row

FLOOR = 1e-4
"""Lowest regret drawn: the axis is logarithmic."""


def text(rows: Sequence[Row], claims: Sequence[Claim]) -> str:
    """Regret with its interval and the hit rate per arm and budget, then the claims."""
    lines: list[str] = []
    for table in dict.fromkeys(row.table for row in rows):
        mine = [row for row in rows if row.table == table]
        budgets = sorted({row.looks for row in mine})
        mode = mine[0].mode
        lines.append(f"{table} ({mode}): mean regret +- 95 % interval (share that hit the best)")
        wide = max(len(row.arm) for row in mine) + 2
        lines.append(
            f"{'arm':<{wide}}" + "".join(f"{f'T = {b}':>24}" for b in budgets) + "    ms/look"
        )
        for arm in dict.fromkeys(row.arm for row in mine):
            cells = {row.looks: row for row in mine if row.arm == arm}
            numbers = "".join(f"{_cell(cells[b]):>24}" for b in budgets)
            lines.append(f"{arm:<{wide}}{numbers}{cells[budgets[0]].milliseconds:>11.2f}")
        lines.append("")
    for claim in claims:
        word = "holds" if claim.holds else "FAILS"
        lines.append(
            f"{word}  {claim.name}: {claim.measured:.4g} {claim.unit} (target {claim.target:.4g})"
        )
    return "\n".join(lines)


def _cell(row: Row) -> str:
    return f"{row.regret:.4f} +- {row.interval:.4f} ({row.hit_rate:.0%})"


def plot(rows: Sequence[Row], path: Path) -> None:
    """Mean regret over the budget, one panel per table, one colour per arm, as a PNG.

    Policies are thick and carry their 95 % intervals; the others' are in the table.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import colormaps, pyplot
    from matplotlib.lines import Line2D

    tables = list(dict.fromkeys(row.table for row in rows))
    arms = list(dict.fromkeys(row.arm for row in rows))
    colour = {arm: colormaps["tab20"](place % 20) for place, arm in enumerate(arms)}
    figure, axes = pyplot.subplots(
        1, len(tables), figsize=(5 * len(tables) + 2.5, 4.5), squeeze=False, layout="constrained"
    )
    for axis, table in zip(axes[0], tables, strict=True):
        for arm in arms:
            mine = [row for row in rows if row.table == table and row.arm == arm]
            mine.sort(key=lambda row: row.looks)
            looks, mean = [r.looks for r in mine], [max(r.regret, FLOOR) for r in mine]
            thick = "policy" in arm
            axis.plot(looks, mean, ".-", color=colour[arm], linewidth=2.5 if thick else 1.2)
            if thick:
                low = [max(row.regret - row.interval, FLOOR) for row in mine]
                high = [max(row.regret + row.interval, FLOOR) for row in mine]
                axis.fill_between(looks, low, high, color=colour[arm], alpha=0.15, linewidth=0)
        budget = "budget in full looks" if rows[0].mode == "two-fidelity" else "looks"
        axis.set(title=f"{table} ({rows[0].mode})", xlabel=budget, yscale="log")
    axes[0][0].set_ylabel(f"mean regret (drawn at {FLOOR:g} where lower)")
    handles = [Line2D([], [], color=colour[arm], label=arm, linewidth=2) for arm in arms]
    figure.legend(handles=handles, loc="outside right center", fontsize=8, frameon=False)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
