"""Tasks that a person wraps around a training script, with a trusted scorer of their own.

The scorer is a Python file of the task's folder with two functions; it runs on the host:

    prepare(folder, data) -> {"train": arrays, "search": arrays, "holdout": arrays}
    score(ask, split)     -> {metric: value}

``arrays`` maps names to numpy arrays whose first axis is rows. Only ``train`` is ever mounted in a
sandbox, as ``train.safetensors``. ``ask`` is an :class:`nightlab.evals.predictions.Asker`.
"""

import hashlib
import importlib.util
import math
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
from safetensors.numpy import load_file, save_file

from nightlab.errors import UsageError, boundary
from nightlab.evals.oracles import Array, DiedError, Oracles, RefusedError, Tokens, Work, measured
from nightlab.evals.own_script import Script
from nightlab.evals.predictions import Arrays, Asker
from nightlab.evals.task import Source, Splits, Task
from nightlab.vocabulary import Measurement, Split

ADDED = ("params", "peak_memory_mb")
"""Metrics that the lab measures for every task."""


@dataclass(frozen=True)
class OwnTask:
    """The trusted code of a task that brings its own."""

    task: Task
    script: Script

    @property
    def sources(self) -> tuple[Source, ...]:
        """None: the task's own trainer reads what it likes in the train folder."""
        return ()

    @property
    def shortest(self) -> int:
        """A program is asked whatever the person's scorer asks."""
        return 1

    def prepare(self, home: Path) -> Splits:
        """Let the scorer make the splits, and store them under ``home/data`` by their content.

        Raises:
            UsageError: it failed, or what it returned cannot be used.
        """
        module = self._scorer()
        with boundary(UsageError, f"prepare() of {self.script.scorer}"):
            made = module.prepare(self.task.folder, dict(self.task.data))
            parts = {split: _arrays(made[split], split) for split in Split}
        digest = _digest(parts)
        folder = home / "data" / "tasks" / self.task.name / digest
        if not folder.exists():
            _write(parts, folder)
        return Splits(
            train=folder / "train",
            search=folder / "search.safetensors",
            holdout=folder / "holdout.safetensors",
            digest=digest,
            origin=f"made by {self.script.scorer}",
        )

    def score(self, split: Path, oracles: Oracles, rng: np.random.Generator) -> Measurement:
        """What the person's scorer says of a trained program. Whatever goes wrong with answers
        of foreign code is the program's failure, never an exception here."""
        module = self._scorer()
        asker = Asker(oracles, self.script.answers, rng)

        def work(done: Work) -> None:
            try:
                found = module.score(asker, load_file(split))
                if not asker.asked:
                    raise ValueError("it asked the program nothing")
                done.metrics.update(_checked(self.task, found))
            except (RefusedError, DiedError):
                raise
            except Exception as error:
                kind = type(error).__name__
                message = f"score() of {self.script.scorer.name}: {kind}: {error}"
                raise DiedError(message[:500]) from None

        return measured(work)

    def passages(self, split: Path, rows: int, length: int, rng: np.random.Generator) -> Tokens:
        """Rows are no sequences of tokens: nothing of such a task is metered."""
        raise NotImplementedError

    def sample(self, split: Path, rows: int, context: int, rng: np.random.Generator) -> Tokens:
        """Rows are no sequences of tokens: there are no spectra of such a task."""
        raise NotImplementedError

    def _scorer(self) -> ModuleType:
        """The person's scorer, imported. Raises UsageError if it cannot be, or is incomplete."""
        file = self.script.scorer
        spec = importlib.util.spec_from_file_location("nightlab_own_scorer", file)
        if spec is None or spec.loader is None:
            raise UsageError(f"{file} is no Python file")
        module: ModuleType = importlib.util.module_from_spec(spec)
        with boundary(UsageError, f"{file} cannot be imported"):
            spec.loader.exec_module(module)
        for name in ("prepare", "score"):
            if not callable(getattr(module, name, None)):
                raise UsageError(f"{file} has no function {name}; see docs/your-task.md")
        return module


def _digest(parts: Mapping[Split, Arrays]) -> str:
    digest = hashlib.sha256()
    for split, arrays in parts.items():
        for name, values in sorted(arrays.items()):
            digest.update(f"{split} {name} {values.dtype} {values.shape}".encode())
            digest.update(hashlib.sha256(values.tobytes()).digest())
    return digest.hexdigest()[:16]


def _arrays(arrays: Arrays, split: Split) -> dict[str, Array]:
    kept = {str(name): np.ascontiguousarray(values) for name, values in arrays.items()}
    rows = {len(values) for values in kept.values()}
    if len(rows) != 1 or 0 in rows:
        raise ValueError(f"{split}: every array needs the same number of rows, at least one")
    return kept


def _write(parts: Mapping[Split, dict[str, Array]], folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=folder.parent))
    try:
        (draft / "train").mkdir()
        (draft / "train").chmod(0o755)
        for split, arrays in parts.items():
            inside = draft / "train" if split is Split.TRAIN else draft
            save_file(arrays, inside / f"{split}.safetensors")
        (draft / "train" / "train.safetensors").chmod(0o644)
        os.rename(draft, folder)
    except OSError:
        if not folder.exists():
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _checked(task: Task, found: Mapping[str, float]) -> dict[str, float]:
    """The metrics that the task declares, as plain finite numbers."""
    metrics = {str(name): float(value) for name, value in found.items()}
    if missing := set(task.metrics) - set(metrics) - set(ADDED):
        raise ValueError(f"it did not measure {', '.join(sorted(missing))}")
    if bad := [name for name, value in metrics.items() if not math.isfinite(value)]:
        raise ValueError(f"{', '.join(bad)} is not finite")
    return {name: value for name, value in metrics.items() if name in task.metrics}


def rows_of(splits: Splits, split: Split) -> int:
    """How many rows a split has."""
    return len(next(iter(_stored(splits, split).values())))


def shared_rows(splits: Splits, split: Split) -> float:
    """The share of a split's rows whose arrays are all in the train split, bit for bit."""
    train = set(_row_keys(_stored(splits, Split.TRAIN)))
    keys = _row_keys(_stored(splits, split))
    return sum(key in train for key in keys) / len(keys)


def _stored(splits: Splits, split: Split) -> dict[str, Array]:
    places = {
        Split.TRAIN: splits.train / "train.safetensors",
        Split.SEARCH: splits.search,
        Split.HOLDOUT: splits.holdout,
    }
    stored: dict[str, Array] = load_file(places[split])
    return stored


def _row_keys(arrays: Mapping[str, Array]) -> list[bytes]:
    columns = [arrays[name].reshape(len(arrays[name]), -1) for name in sorted(arrays)]
    return [b"".join(column[i].tobytes() for column in columns) for i in range(len(columns[0]))]
