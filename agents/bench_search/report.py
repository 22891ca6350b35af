"""The bench's plain forms: a table for the terminal and a plot."""

from collections.abc import Sequence
from pathlib import Path

from nightlab.agents.bench_search.claims import Claim
from nightlab.agents.bench_search.protocol import Row


def text(rows: Sequence[Row], claims: Sequence[Claim]) -> str:
    """Regret with its interval and the hit rate per arm and budget, then the claims."""
    lines: list[str] = []
    for table in dict.fromkeys(row.table for row in rows):
        mine = [row for row in rows if row.table == table]
        budgets = sorted({row.looks for row in mine})
        mode = mine[0].mode
        lines.append(f"{table} ({mode}): mean regret +- 95 % interval (share that hit the best)")
        lines.append(f"{'arm':<30}" + "".join(f"{f'T = {b}':>24}" for b in budgets) + "    ms/look")
        for arm in dict.fromkeys(row.arm for row in mine):
            cells = {row.looks: row for row in mine if row.arm == arm}
            numbers = "".join(f"{_cell(cells[b]):>24}" for b in budgets)
            lines.append(f"{arm:<30}{numbers}{cells[budgets[0]].milliseconds:>11.2f}")
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
    """Mean regret with intervals over the budget, one panel per table, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    tables = list(dict.fromkeys(row.table for row in rows))
    figure, axes = pyplot.subplots(1, len(tables), figsize=(6 * len(tables), 4.5), squeeze=False)
    for axis, table in zip(axes[0], tables, strict=True):
        for arm in dict.fromkeys(row.arm for row in rows if row.table == table):
            mine = sorted(
                (row for row in rows if row.table == table and row.arm == arm),
                key=lambda row: row.looks,
            )
            looks = [row.looks for row in mine]
            mean = [max(row.regret, 1e-4) for row in mine]
            width = "policy" in arm
            axis.plot(looks, mean, marker="o", label=arm, linewidth=2.5 if width else 1.0)
            low = [max(row.regret - row.interval, 1e-4) for row in mine]
            axis.fill_between(looks, low, [row.regret + row.interval for row in mine], alpha=0.1)
        axis.set(title=table, xlabel="looks", ylabel="regret (floor 1e-4)", yscale="log")
    axes[0][-1].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
