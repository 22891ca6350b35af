"""What the bench claims, computed from rows and nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nightlab.agents.bench_search.protocol import Row, half_width

BASELINE_ARMS = (
    "random",
    "local search",
    "regularized evolution",
    "tpe",
    "cma-es",
    "puct",
    "shinka weighted",
)
WARM = "policy warm"
FULL_ONLY = "policy warm, full looks only"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim with the number that decides it."""

    name: str
    target: float
    measured: float
    unit: str
    holds: bool


def claims(rows: Sequence[Row]) -> list[Claim]:
    """Every claim that the given rows can decide; none is made where an arm is missing."""
    found: list[Claim] = []
    for table in sorted({row.table for row in rows}):
        mine = {(row.arm, row.looks): row for row in rows if row.table == table}
        for looks in sorted({row.looks for row in rows}):
            found += _against_best(mine, table, looks)
            found += _against_bandit(mine, table, looks)
            if looks in (50, 150):
                found += _below(mine, table, looks, "regularized evolution")
                found += _below(mine, table, looks, "tpe")
        found += _half_the_cost(mine, table)
    return found


def _against_best(mine: dict[tuple[str, int], Row], table: str, looks: int) -> list[Claim]:
    others = [mine[arm, looks] for arm in BASELINE_ARMS if (arm, looks) in mine]
    warm = mine.get((WARM, looks))
    if warm is None or not others:
        return []
    best = min(others, key=lambda row: row.regret)
    name = f"{table}, {looks} looks: warm policy less best baseline ({best.arm})"
    return [_not_above(name, warm, best)]


def _against_bandit(mine: dict[tuple[str, int], Row], table: str, looks: int) -> list[Claim]:
    cold, bandit = mine.get(("policy cold", looks)), mine.get(("bandit", looks))
    if cold is None or bandit is None:
        return []
    return [_not_above(f"{table}, {looks} looks: cold policy less bandit", cold, bandit)]


def _not_above(name: str, ours: Row, other: Row) -> Claim:
    """The mean paired difference is not above the half-width of its interval."""
    if len(ours.regrets) == len(other.regrets):
        difference = np.array(ours.regrets) - np.array(other.regrets)
        measured, margin = float(difference.mean()), half_width(difference)
    else:
        measured = ours.regret - other.regret
        margin = float(np.hypot(ours.interval, other.interval))
    return Claim(
        name=name, target=margin, measured=measured, unit="regret", holds=measured <= margin
    )


def _below(mine: dict[tuple[str, int], Row], table: str, looks: int, arm: str) -> list[Claim]:
    warm, other = mine.get((WARM, looks)), mine.get((arm, looks))
    if warm is None or other is None or other.regret <= 0.0:
        return []
    share = 100.0 * (1.0 - warm.regret / other.regret)
    name = f"{table}, {looks} looks: warm policy below {arm}"
    return [Claim(name=name, target=30.0, measured=share, unit="%", holds=share >= 30.0)]


def _half_the_cost(mine: dict[tuple[str, int], Row], table: str) -> list[Claim]:
    """Two fidelities at a budget against full looks only at twice that budget."""
    found = []
    for (arm, looks), ours in sorted(mine.items()):
        other = mine.get((FULL_ONLY, 2 * looks))
        if arm == WARM and other is not None:
            name = f"{table}: two fidelities at {looks} less full looks only at {2 * looks}"
            found.append(_not_above(name, ours, other))
    return found
