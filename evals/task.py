"""Tasks: frozen environments that a campaign searches in.

A task is a folder with a ``task.toml`` that a person can read and the baseline's editable files.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nightlab.errors import UsageError
from nightlab.evals import gpu, own_script
from nightlab.evals.own_script import Script
from nightlab.vocabulary import Direction, Program, Rung

SHIPPED = Path(__file__).parent / "tasks"


@dataclass(frozen=True, kw_only=True)
class Source:
    """One body of training data, as the frozen trainer is told of it."""

    tokens: str
    """Its file in the train folder: bytes, or little-endian uint16 where it ends in ``.u16``."""
    mask: str | None = None
    """A file of as many bytes: 1 where a token counts as a target. None: all of them count."""
    row: int | None = None
    """Tokens of one example; a row is trained on as it is. None: one stream, and any window of
    the program's context. Of several sources the trainer takes the one with the longest rows
    that fit the program's context."""


@dataclass(frozen=True, kw_only=True)
class Splits:
    """A task's data on the host. Only ``train`` may be mounted in a sandbox."""

    train: Path
    """A folder that holds nothing but the train split."""
    search: Path
    holdout: Path
    digest: str
    """Hash over all three splits."""
    origin: str
    """Where the data came from, in words."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A frozen environment: the baseline program, rungs, metrics and limits."""

    name: str
    title: str
    metric: str
    direction: Direction
    metrics: Mapping[str, Direction]
    """Every metric the task can measure, and which way it is better."""
    scorer: str
    """Kind of its trusted code: which data it makes and how it scores (``evals/scorer.py``)."""
    vocabulary: int
    """Number of token values."""
    baseline: Program
    rungs: tuple[Rung, ...]
    """Cheapest first."""
    coarse: Rung | None = None
    """A cheaper one that shows large gains only: for short campaigns without constraints."""
    max_context: int
    memory_bytes: int
    weights_bytes: int
    """Largest weights file a trial may leave."""
    data: Mapping[str, Any]
    """The ``[data]`` table: whatever the task's trusted code needs."""
    folder: Path
    """Where its ``task.toml`` is."""
    script: Script | None = None
    """None for the tasks that the lab's own trainer trains."""
    gpu: str | None = None
    """UUID of the GPU that it is trained on, or None for the CPU."""
    scoring_seconds: float = 1.5
    """What scoring a trial takes on one core, roughly, before a campaign has measured it."""
    note: str = ""
    """What a person should know of how it runs on this machine."""
    focus: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Per metric, the parts of a program that it is made of: a campaign for it begins with them."""

    def rung(self, name: str) -> Rung:
        """The rung of that name.

        Raises:
            UsageError: the task has none.
        """
        rungs = (*([self.coarse] if self.coarse else []), *self.rungs)
        for rung in rungs:
            if rung.name == name:
                return rung
        known = ", ".join(rung.name for rung in rungs)
        raise UsageError(f"task {self.name} has no rung {name!r}; it has {known}")


def names() -> list[str]:
    """The tasks that ship."""
    return sorted(path.parent.name for path in SHIPPED.glob("*/task.toml"))


def load(name_or_folder: str) -> Task:
    """A shipped task by name, or any task by its folder; as it runs on this machine.

    Raises:
        UsageError: there is no such task, or its ``task.toml`` cannot be used.
    """
    return load_on(name_or_folder, gpu.first())


def load_on(name_or_folder: str, device: str | None) -> Task:
    """A task as it runs on a GPU (its UUID), or on the CPU. Raises UsageError as :func:`load`."""
    folder = SHIPPED / name_or_folder if name_or_folder in names() else Path(name_or_folder)
    file = folder.absolute() / "task.toml"
    if not file.is_file():
        known = ", ".join(names())
        raise UsageError(
            f"unknown task {name_or_folder!r}; known: {known}, or a folder with a task.toml"
        )
    try:
        return _read(file.parent, tomllib.loads(file.read_text()), device)
    except KeyError as error:
        raise UsageError(f"{file} lacks {error}; see docs/your-task.md") from None
    except (tomllib.TOMLDecodeError, ValueError, TypeError, AttributeError, OSError) as error:
        raise UsageError(f"{file}: {error}; see docs/your-task.md") from None


def _read(folder: Path, table: Mapping[str, Any], device: str | None) -> Task:
    if any("/" in name for name in table["editable"]):
        raise ValueError("editable files have plain names")
    files = {name: (folder / name).read_text() for name in table["editable"]}
    note = ""
    if "cpu" in table and device is None:
        table, files, note = gpu.without(table, files)
    limits = {"memory_mb": 4096, "weights_mb": 64, **table.get("limits", {})}
    rungs = tuple(sorted(map(_rung, table["rungs"]), key=lambda rung: rung.cpu_seconds))
    if not rungs or any(rung.cpu_seconds <= 0 for rung in rungs):
        raise ValueError("a task needs at least one rung, each with a positive budget")
    coarse = _rung(table["coarse_rung"]) if "coarse_rung" in table else None
    if coarse and not 0 < coarse.cpu_seconds < rungs[0].cpu_seconds:
        raise ValueError("[coarse_rung] must be cheaper than every rung, and above 0 s")
    metrics = {name: Direction(direction) for name, direction in table["metrics"].items()}
    if metrics.get(table["metric"]) != Direction(table["direction"]):
        raise ValueError(f"[metrics] must list {table['metric']!r} with the task's direction")
    focus = {name: tuple(parts) for name, parts in table.get("focus", {}).items()}
    if unknown := sorted(focus.keys() - metrics.keys()):
        raise ValueError(f"[focus] names {unknown[0]!r}, which [metrics] does not list")
    return Task(
        name=table["name"],
        title=table["title"],
        metric=table["metric"],
        direction=Direction(table["direction"]),
        metrics=metrics,
        scorer=table.get("scorer", "bits_per_byte"),
        vocabulary=int(table.get("vocabulary", 256)),
        baseline=Program(files),
        rungs=rungs,
        coarse=coarse,
        max_context=int(table.get("max_context", 1)),
        memory_bytes=int(limits["memory_mb"]) << 20,
        weights_bytes=int(limits["weights_mb"]) << 20,
        data=table.get("data", {}),
        folder=folder,
        script=own_script.read(folder, table) if "trainer" in table else None,
        gpu=device if "cpu" in table else None,
        scoring_seconds=float(table.get("scoring_seconds", 1.5)),
        note=note,
        focus=focus,
    )


def _rung(table: Mapping[str, Any]) -> Rung:
    return Rung(table["name"], float(table["cpu_seconds"]))
