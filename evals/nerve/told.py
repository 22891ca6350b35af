"""A probe's report from what an untrusted process answered: every field is checked for form."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nightlab.errors import UsageError
from nightlab.evals.nerve.probe import Report
from nightlab.evals.nerve.readings import Reading, parse
from nightlab.kernels.spectra import FeedForward

KINDS: Mapping[object, Literal["plain", "gated"]] = {"plain": "plain", "gated": "gated"}


@dataclass(frozen=True)
class Answer:
    """What was answered about one probe batch."""

    records: object
    found: object
    """Descriptions of the feed-forwards."""
    eigenvalues: NDArray[np.generic]
    """Of all records, one after the other."""


def report(answers: Sequence[Answer]) -> Report:
    """The report of some probe batches; UsageError where an answer has no known form."""
    readings = [parse(answer.records) for answer in answers]
    found = _found(answers[0].found)
    if not found:
        raise UsageError("no feed-forward was found in the program (compiled code is not seen)")
    eigenvalues = _split(answers[0].eigenvalues, readings[0])
    return Report(found, tuple(readings), eigenvalues)


def _found(described: object) -> tuple[FeedForward, ...]:
    if not isinstance(described, Sequence):
        raise UsageError("the feed-forwards are not described in any known form")
    return tuple(_feed_forward(each) for each in described)


def _feed_forward(each: object) -> FeedForward:
    try:
        assert isinstance(each, Mapping)
        return FeedForward(
            path=str(each["path"])[:200],
            kind=KINDS[each["kind"]],
            gate=str(each["gate"])[:200],
            up=None if each["up"] is None else str(each["up"])[:200],
            down=str(each["down"])[:200],
            width=int(each["width"]),
            layer=int(each["layer"]),
            expert=None if each["expert"] is None else int(each["expert"]),
        )
    except (AssertionError, KeyError, TypeError, ValueError):
        raise UsageError("a feed-forward is not described in any known form") from None


def _split(joined: NDArray[np.generic], readings: Sequence[Reading]) -> tuple[Tensor | None, ...]:
    """The eigenvalues [D] of each reading, descending."""
    sizes = [reading.d for reading in readings]
    if joined.ndim != 1 or joined.dtype != np.float32 or len(joined) != sum(sizes):
        raise UsageError("the eigenvalues do not fit the spectra")
    values = joined.astype(np.float64)
    if not np.isfinite(values).all() or (values < 0).any():
        raise UsageError("the eigenvalues are not finite and positive")
    parts = np.split(values, np.cumsum(sizes)[:-1])
    return tuple(
        torch.from_numpy(np.sort(part)[::-1].copy()) if len(part) else None for part in parts
    )
