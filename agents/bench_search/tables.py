"""Tables that stand in for campaigns: every program's score is known beforehand.

A table of another kind is one small reader that returns a :class:`Table`; add it to
:data:`READERS`.
"""

import csv
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nightlab.agents.policy.interface import Part
from nightlab.errors import MissingError, UsageError

Floats = NDArray[np.float64]

NB201_OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")


@dataclass(frozen=True, kw_only=True)
class Table:
    """Scores of every program of a space, higher is better."""

    name: str
    parts: tuple[Part, ...]
    values: Floats
    """Trusted score, shape (variants of part 1, ..., variants of part P)."""
    seeds: Floats | None = None
    """Scores of single seeds, shape (..., seeds): a noisy look returns one of them."""
    low: Floats | None = None
    """Score of a cheap look, same shape as ``values``."""
    low_cost: float = 1.0
    """Cost of a cheap look over a full one."""
    unit: str = "accuracy points"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    @property
    def best(self) -> float:
        """Score of the best program."""
        return float(self.values.max())


def permuted(table: Table, seed: int) -> Table:
    """The null table: the same scores, dealt to programs at random. Nothing can be learned."""
    rng = np.random.default_rng(seed)
    values = rng.permutation(table.values.ravel()).reshape(table.shape)
    return Table(name=f"{table.name}-permuted", parts=table.parts, values=values, unit=table.unit)


def _nb201(folder: Path, dataset: str) -> Table:
    shape = (len(NB201_OPERATIONS),) * 6
    values, low = np.full(shape, np.nan), np.full(shape, np.nan)
    for row in _rows(folder / "nb201_full.csv"):
        values[_nb201_cell(row["arch"])] = float(row[f"{dataset}_test_200ep"])
    for row in _rows(folder / "nb201_low.csv"):
        low[_nb201_cell(row["arch"])] = float(row[f"{dataset}_val"])
    parts = tuple(Part(f"edge{i}", NB201_OPERATIONS) for i in range(6))
    name = f"nb201-{dataset}"
    return Table(name=name, parts=parts, values=values, low=low, low_cost=12 / 200)


def _nb201_cell(arch: str) -> tuple[int, ...]:
    edges = [edge for edge in arch.replace("+", "").split("|") if edge]
    return tuple(NB201_OPERATIONS.index(edge.split("~")[0]) for edge in edges)


def _macro(folder: Path) -> Table:
    nets = json.loads(_readable(folder / "nas_bench_macro_cifar10.json").read_text())
    seeds = np.full((3,) * 8 + (3,), np.nan)
    for digits, net in nets.items():
        seeds[tuple(int(digit) for digit in digits)] = net["test_acc"]
    parts = tuple(Part(f"layer{i}", ("0", "1", "2")) for i in range(8))
    return Table(name="macro-cifar10", parts=parts, values=seeds.mean(axis=-1), seeds=seeds)


READERS: Mapping[str, Callable[[Path], Table]] = {
    "nb201-cifar10": lambda folder: _nb201(folder, "cifar10"),
    "nb201-cifar100": lambda folder: _nb201(folder, "cifar100"),
    "macro-cifar10": _macro,
}
"""Table name to its reader."""


def read(name: str, folder: Path) -> Table:
    """Read a table. Raises UsageError for an unknown name, MissingError without its file."""
    if name not in READERS:
        raise UsageError(f"There is no table {name!r}; there are {', '.join(READERS)}.")
    table = READERS[name](folder)
    if not np.isfinite(table.values).all():
        raise MissingError(f"Table {name} in {folder} is not whole: some programs have no score.")
    return table


def _readable(path: Path) -> Path:
    if not path.is_file():
        raise MissingError(f"{path} is missing: give the folder of the tables with --tables DIR.")
    return path


def _rows(path: Path) -> list[dict[str, str]]:
    with _readable(path).open(newline="") as file:
        return list(csv.DictReader(file))
