"""What a task's trusted code offers, and where the code of each kind is."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
from safetensors import safe_open

from nightlab.errors import UsageError
from nightlab.evals.bits_per_byte import BitsPerByte
from nightlab.evals.oracles import Oracles, Tokens
from nightlab.evals.own_task import OwnTask
from nightlab.evals.recall import Recall
from nightlab.evals.task import Source, Splits, Task
from nightlab.evals.token_bits import TokenBits
from nightlab.vocabulary import Measurement


class Scorer(Protocol):
    """A task's data and its measure. It runs on the host and never imports a program."""

    @property
    def sources(self) -> tuple[Source, ...]:
        """What the frozen trainer is told of the train split."""
        ...

    def prepare(self, home: Path) -> Splits:
        """Build the splits below ``home/data`` unless they are there already.

        Raises:
            UsageError: the task names data that nobody made.
            MissingError: something they are made from is not on this machine.
        """
        ...

    def score(self, split: Path, oracles: Oracles, rng: np.random.Generator) -> Measurement:
        """Metrics of a trained program on a split, with an integrity verdict.

        ``rng`` is the evaluator's: a program cannot know what it decides.
        """
        ...

    def sample(self, split: Path, rows: int, context: int, rng: np.random.Generator) -> Tokens:
        """Some sequences (rows, at most ``context``) of a split, for spectra."""
        ...

    def passages(self, split: Path, rows: int, length: int, rng: np.random.Generator) -> Tokens:
        """Sequences (rows, length) like those that are scored, for meters; shorter ones where
        none is as long."""
        ...

    @property
    def shortest(self) -> int:
        """Tokens of the shortest input that every program is asked to read; 0 where programs are
        scored on windows of the context that they declare, and read no more at once."""
        ...


KINDS: Mapping[str, Callable[[Task], Scorer]] = {
    "bits_per_byte": BitsPerByte,
    "token_bits": TokenBits,
    "recall": Recall,
}
"""The ``scorer`` of a ``task.toml`` to its trusted code."""


def make(task: Task) -> Scorer:
    """The trusted code of a task. Raises UsageError if its kind is unknown."""
    if task.script is not None:
        return OwnTask(task, task.script)
    kind = KINDS.get(task.scorer)
    if kind is None:
        raise UsageError(
            f"task {task.name}: no scorer {task.scorer!r}; there is {', '.join(KINDS)}"
        )
    return kind(task)


def parameters(weights: Path) -> int:
    """Number of stored values, from the safetensors header; the program has no say in it. None
    are counted in a file of another kind."""
    if weights.suffix != ".safetensors":
        return 0
    with safe_open(str(weights), framework="numpy") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
