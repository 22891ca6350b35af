"""What the campaigns of the bench say: means with intervals, paired claims, a table and a plot."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from nightlab.agents.bench_campaigns.run import Row, Settings

OURS = ("policy", "bandit")
"""Arms that claims are made for: the learned policy, and the start it must not fall behind."""


@dataclass(frozen=True)
class Mean:
    """A mean with its 95 % Student interval."""

    value: float
    half: float
    """Half-width; infinite for a single campaign."""
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Mean":
        """From at least one value."""
        count = len(values)
        if count < 2:
            return cls(float(values[0]), np.inf, count)
        error = float(np.std(values, ddof=1)) / math.sqrt(count)
        return cls(float(np.mean(values)), float(stats.t.ppf(0.975, count - 1)) * error, count)

    def __str__(self) -> str:
        half = f" +- {self.half:.2f}" if np.isfinite(self.half) else ""
        return f"{self.value:.2f}{half}"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One arm against another on the same seeds."""

    name: str
    target: float
    """The difference must be above this with its whole interval."""
    measured: float
    """Mean paired difference of the gain, percent points."""
    low: float
    high: float
    pairs: int
    unit: str = "% points"

    @property
    def holds(self) -> bool:
        """Whether the lower end of the interval is above the target."""
        return self.low > self.target


def claims(rows: Sequence[Row]) -> list[Claim]:
    """Every comparison that the rows can decide; none is made of fewer than two pairs."""
    gains = {(row.arm, row.pair): row.gain_percent for row in rows}
    arms = list(dict.fromkeys(row.arm for row in rows))
    found = []
    for ours in (arm for arm in OURS if arm in arms):
        for other in (arm for arm in arms if arm != ours):
            pairs = [p for arm, p in gains if arm == ours and (other, p) in gains]
            if len(pairs) < 2:
                continue
            gap = Mean.of([gains[ours, pair] - gains[other, pair] for pair in pairs])
            found.append(
                Claim(
                    name=f"{ours} above {other}",
                    target=0.0,
                    measured=gap.value,
                    low=gap.value - gap.half,
                    high=gap.value + gap.half,
                    pairs=gap.count,
                )
            )
    return found


def table(rows: Sequence[Row]) -> list[dict[str, object]]:
    """One line per arm."""
    lines: list[dict[str, object]] = []
    for arm in dict.fromkeys(row.arm for row in rows):
        mine = [row for row in rows if row.arm == arm]
        lines.append(
            {
                "arm": arm,
                "hold-out gain, %": str(Mean.of([row.gain_percent for row in mine])),
                "search gain, %": str(Mean.of([row.search_gain_percent for row in mine])),
                "confirmed": float(np.mean([row.confirmed for row in mine])),
                "experiments": float(np.mean([row.experiments for row in mine])),
                "unfit": float(np.mean([row.unfit for row in mine])),
                "trials": float(np.mean([row.trials for row in mine])),
                "campaigns": len(mine),
            }
        )
    return lines


def document(settings: Settings, rows: Sequence[Row]) -> dict[str, object]:
    """The bench's JSON, without machine and date."""
    return {
        "bench": "campaigns",
        "settings": asdict(settings),
        "rows": [asdict(row) for row in rows],
        "table": table(rows),
        "claims": [{**asdict(claim), "holds": claim.holds} for claim in claims(rows)],
    }


def plot(rows: Sequence[Row], path: Path) -> None:
    """Every campaign as a dot, pairs joined, each arm's mean with its interval; a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    arms = list(dict.fromkeys(row.arm for row in rows))
    figure, axis = pyplot.subplots(figsize=(1.5 + 1.3 * len(arms), 4.2))
    for pair in sorted({row.pair for row in rows}):
        mine: Mapping[str, float] = {r.arm: r.gain_percent for r in rows if r.pair == pair}
        known = [arm for arm in arms if arm in mine]
        places = [arms.index(arm) for arm in known]
        axis.plot(places, [mine[arm] for arm in known], "o-", color="0.75", zorder=1, lw=0.8)
    for place, arm in enumerate(arms):
        mean = Mean.of([row.gain_percent for row in rows if row.arm == arm])
        half = mean.half if np.isfinite(mean.half) else 0.0
        axis.errorbar(place, mean.value, half, fmt="s", capsize=6, zorder=2)
    axis.set_xticks(range(len(arms)), arms)
    axis.set_xlim(-0.5, len(arms) - 0.5)
    axis.axhline(0.0, color="0.5", lw=0.8)
    trials = max(row.trials for row in rows)
    axis.set(
        ylabel="gain over the baseline on the hold-out, %", title=f"{trials} trials a campaign"
    )
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
