"""Trained programs as trusted code sees them: processes in sandboxes that answer, nothing more.

A scorer gets two of them. The *reader* answers for everything that is scored; the *checker* has
seen nothing and answers for a part of it again. Whatever either says is untrusted.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from nightlab.vocabulary import Integrity, Measurement

Array = NDArray[np.generic]
Tokens = NDArray[np.integer]
"""Token numbers, (B, T): uint8 where the vocabulary allows, else int32."""
Floats = NDArray[np.float32]
Forward = Callable[[NDArray[np.uint8]], Array | None]
"""Bytes (B, T) to untrusted logits (B, T, V), or None when the oracle has died."""


class RefusedError(Exception):
    """A probe failed; the message says which."""


class DiedError(Exception):
    """An oracle died or passed its limit: the program's failure, but no sign of a cheat."""


class Oracle(Protocol):
    """One process that holds a trained program."""

    @property
    def facts(self) -> Mapping[str, object]:
        """What it declared when it was opened, ``context`` among it; a declaration, not a fact."""
        ...

    def ask(self, what: str, *arrays: Array, **options: object) -> Sequence[Array] | None:
        """Its answer to a request (``logits``, ``prefill``, ``step``...), or None if it died."""
        ...


@runtime_checkable
class Metered(Oracle, Protocol):
    """An oracle whose memory and CPU time can be seen from outside."""

    @property
    def idle_bytes(self) -> int | None:
        """Memory of its cell before the program came, seen from outside. None where a cell shares
        pages with its server until it touches them, as in the process tier: nothing is known."""
        ...

    @property
    def weights_bytes(self) -> int: ...

    def memory_bytes(self) -> int:
        """Memory and files of its cell now, seen from outside; 0 when it is dead."""
        ...

    def cpu_seconds(self) -> float:
        """CPU time of its cell so far, seen from outside."""
        ...


@dataclass(frozen=True)
class Answering:
    """An oracle over bytes that only answers ``logits``, by a function."""

    forward: Forward
    context: int

    @property
    def facts(self) -> Mapping[str, object]:
        return {"context": self.context}

    def ask(self, what: str, *arrays: Array, **options: object) -> Sequence[Array] | None:
        if what != "logits":
            raise ValueError(f"it answers logits only, not {what}")
        (tokens_BT,) = arrays
        logits = self.forward(tokens_BT.astype(np.uint8))
        return None if logits is None else [logits]


@dataclass(frozen=True, kw_only=True)
class Oracles:
    """Two processes with the same trained program."""

    reader: Oracle
    checker: Oracle
    wanted: frozenset[str] = frozenset()
    """What the objective names: a scorer may leave out rows that none of it is made of."""

    def context(self, most: int) -> int:
        """The context length that both declare.

        Raises:
            RefusedError: they disagree, or it is outside 1 to ``most``.
        """
        declared = [oracle.facts.get("context") for oracle in (self.reader, self.checker)]
        first = declared[0]
        if first != declared[1] or type(first) is not int:
            raise RefusedError(f"declared contexts {declared}")
        if not 1 <= first <= most:
            raise RefusedError(f"declared a context of {first}")
        return first


def one(answers: Sequence[Array] | None, shape: tuple[int, ...]) -> Floats:
    """The one array of an answer: float32, finite and of that shape.

    Raises:
        DiedError, RefusedError: there is no answer, or it is something else.
    """
    if answers is None:
        raise DiedError("the oracle died or passed its limit while it was scored")
    if len(answers) != 1:
        raise RefusedError(f"answered {len(answers)} arrays")
    array = answers[0]
    if array.shape != shape or array.dtype != np.float32:
        raise RefusedError(f"answered logits of shape {array.shape} and type {array.dtype}")
    if not np.isfinite(array).all():
        raise RefusedError("answered logits that are not finite")
    return array.astype(np.float32)


def log_softmax(logits: Floats) -> Floats:
    """Log-probabilities over the last axis, by our own arithmetic."""
    top = logits.max(axis=-1, keepdims=True)
    shifted = logits - top
    total = np.exp(shifted).sum(axis=-1, keepdims=True)
    logp: Floats = shifted - np.log(total)
    return logp


@dataclass
class Work:
    """What a scorer's work came to, filled while it is done."""

    metrics: dict[str, float] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    """Suspicions that do not change the score."""


def measured(work: Callable[[Work], None]) -> Measurement:
    """Run a scorer's work and freeze what it came to; a refusal leaves no metric."""
    started = time.monotonic()
    done = Work()
    integrity = Integrity.CLEAN
    try:
        work(done)
        integrity = Integrity.SUSPECT if done.reasons else Integrity.CLEAN
    except (RefusedError, DiedError) as refusal:
        tampered = isinstance(refusal, RefusedError)
        integrity = Integrity.TAMPERED if tampered else Integrity.CLEAN
        done = Work(reasons=[str(refusal)])
    return Measurement(
        metrics=done.metrics,
        integrity=integrity,
        reasons=tuple(done.reasons),
        scoring_seconds=time.monotonic() - started,
    )
