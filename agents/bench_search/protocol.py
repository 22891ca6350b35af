"""The protocol of ``nightlab bench search``: every arm, paired seeds, intervals, claims."""

import contextlib
import datetime
import os
import platform
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightlab.agents.bench_search.arms import BASELINES, Arm
from nightlab.agents.bench_search.fidelity import TWO_FIDELITY, warm_two_fidelity
from nightlab.agents.bench_search.learners import POLICIES, warm_arm
from nightlab.agents.bench_search.objective import Objective, SpentError
from nightlab.agents.bench_search.replay import fitted
from nightlab.agents.bench_search.tables import Table, permuted, read
from nightlab.errors import UsageError

Floats = NDArray[np.float64]

REPLAY = "byte_lm-replay"
"""Name of the table fitted to recorded trials, which lie in this file beside the other tables:"""
REPLAY_FILE = "byte_lm_trials.jsonl"
MODES = ("plain", "noisy", "two-fidelity", "null")
_BOTH = ("nb201-cifar100", "macro-cifar10")
_TABLES = {"noisy": ("macro-cifar10",), "two-fidelity": ("nb201-cifar100",)}
"""Of the tables that no setting was fixed on, those that fit the mode, where not both do."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to run."""

    tables: Path
    names: tuple[str, ...] | None = None
    """None: those that fit the mode, without the one that settings were fixed on."""
    mode: str = "plain"
    """``plain``; ``noisy`` (one random seed per look); ``two-fidelity``; ``null`` (permuted)."""
    arms: tuple[str, ...] = ()
    """Empty: all arms of the mode."""
    checkpoints: tuple[int, ...] = ()
    """Budgets in full looks at which the regret is reported; empty: those of the mode."""
    seeds: int = 100
    first_seed: int = 0
    weights: tuple[Path, ...] = ()
    """Sets of weights for the warm arm; the first that never saw the table is used."""
    workers: int = 1

    @property
    def budgets(self) -> tuple[int, ...]:
        usual = (12, 25, 50, 100) if self.mode == "two-fidelity" else (50, 150, 300)
        return self.checkpoints or usual


@dataclass(frozen=True, kw_only=True)
class Row:
    """One arm on one table at one budget."""

    table: str
    mode: str
    arm: str
    looks: int
    seeds: int
    regret: float
    """Mean over seeds, in the table's unit."""
    interval: float
    """Half-width of the 95 % interval of the mean."""
    hit_rate: float
    """Share of campaigns that found the table's best program."""
    milliseconds: float
    """CPU time of the arm per look, mean (tables cost nothing)."""
    regrets: tuple[float, ...] = field(default=(), repr=False)
    """Per seed, in the order of the seeds: what pairs arms."""


def arms_of(settings: Settings, table: str) -> dict[str, Arm]:
    """Arms by name. Raises UsageError for an unknown one, or where no weights fit the table."""
    known: dict[str, Arm] = {**BASELINES, **POLICIES}
    if settings.mode == "two-fidelity":
        known = dict(TWO_FIDELITY)
    names = settings.arms or (*known, *(("policy warm",) if settings.weights else ()))
    chosen: dict[str, Arm] = {}
    for name in names:
        if name.startswith("policy warm"):
            warm = warm_arm(list(settings.weights), table)
            two = settings.mode == "two-fidelity" and name == "policy warm"
            chosen[name] = partial(warm_two_fidelity, warm.weights) if two else warm
        elif name in known:
            chosen[name] = known[name]
        else:
            raise UsageError(f"There is no arm {name!r}; there are {', '.join(known)}.")
    if settings.mode == "two-fidelity" and settings.weights and not settings.arms:
        chosen["policy warm, full looks only"] = warm_arm(list(settings.weights), table)
    return chosen


def campaign(table: Table, arm: Arm, mode: str, budget: float, seed: int) -> tuple[Floats, Floats]:
    """(cost, regret) after each look of one seed's campaign."""
    objective = Objective(table, budget, np.random.default_rng([seed, 1]), mode == "noisy")
    with contextlib.suppress(SpentError):
        arm(objective, np.random.default_rng([seed, 2]))
    trace = objective.trace()
    return trace.cost, trace.regret


def regret_at(cost: Floats, regret: Floats, budget: float) -> float:
    """Regret of what the arm would hand over once ``budget`` is spent."""
    return float(regret[int(np.searchsorted(cost, budget + 1e-9, side="right")) - 1])


def _one(table: Table, arm: Arm, mode: str, budgets: Sequence[int], seed: int) -> list[float]:
    began = time.process_time()
    cost, regret = campaign(table, arm, mode, float(max(budgets)), seed)
    per_look = 1000.0 * (time.process_time() - began) / len(cost)
    return [*(regret_at(cost, regret, budget) for budget in budgets), per_look]


def measure(settings: Settings, table: Table, name: str, arm: Arm) -> list[Row]:
    """All seeds of one arm on one table."""
    seeds = range(settings.first_seed, settings.first_seed + settings.seeds)
    one = partial(_one, table, arm, settings.mode, settings.budgets)
    if settings.workers > 1:
        with ProcessPoolExecutor(settings.workers) as pool:
            results = np.array(list(pool.map(one, seeds, chunksize=4)))
    else:
        results = np.array([one(seed) for seed in seeds])
    return [
        Row(
            table=table.name,
            mode=settings.mode,
            arm=name,
            looks=looks,
            seeds=settings.seeds,
            regret=float(results[:, place].mean()),
            interval=half_width(results[:, place]),
            hit_rate=float((results[:, place] <= 1e-9).mean()),
            milliseconds=float(results[:, -1].mean()),
            regrets=tuple(results[:, place].tolist()),
        )
        for place, looks in enumerate(settings.budgets)
    ]


def half_width(values: Floats) -> float:
    """Half-width of the 95 % interval of the mean (normal; 0 for equal values)."""
    if len(values) < 2:
        return 0.0
    return float(1.96 * values.std(ddof=1) / np.sqrt(len(values)))


def tables_of(settings: Settings) -> list[Table]:
    """The tables of the mode. Raises UsageError for an unknown mode or an unfit table."""
    if settings.mode not in MODES:
        raise UsageError(f"There is no mode {settings.mode!r}; there are {', '.join(MODES)}.")
    found = [
        fitted(settings.tables / REPLAY_FILE) if name == REPLAY else read(name, settings.tables)
        for name in (
            _TABLES.get(settings.mode, _BOTH) if settings.names is None else settings.names
        )
    ]
    if settings.mode == "null":
        return [permuted(table, seed=0) for table in found]
    for table in found:
        if settings.mode == "noisy" and table.seeds is None:
            raise UsageError(f"{table.name} has one score per program: it cannot be noisy.")
        if settings.mode == "two-fidelity" and table.low is None:
            raise UsageError(f"{table.name} has no cheap look: it has one fidelity.")
    return found


def document(settings: Settings, rows: Sequence[Row], claims: Sequence[Any]) -> Mapping[str, Any]:
    """The JSON document of the bench."""
    given = {name: _plain(value) for name, value in asdict(settings).items()}
    return {
        "bench": "search",
        "machine": {
            "system": platform.platform(),
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
            "numpy": np.__version__,
        },
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "settings": {**given, "repeated look": "costs like a first one, for every arm"},
        "rows": [asdict(row) for row in rows],
        "claims": [asdict(claim) for claim in claims],
    }


def _plain(value: object) -> object:
    if isinstance(value, Path):
        return value.name
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value
