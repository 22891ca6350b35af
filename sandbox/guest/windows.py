"""What a program is trained on: windows of the train split, drawn by the evaluator's seed.

Needs NumPy alone, so that the host can draw the same windows again without importing a program's
libraries. Axes: B examples, T tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PROBE_ROWS = 4
"""Examples of the last report of spectra, and of one probe batch: the two are compared."""
PROBED = 11
"""Keeps the draw of the probed examples apart from that of the batches."""


@dataclass(frozen=True)
class Source:
    """One body of training data."""

    tokens: Path
    """Raw bytes, or little-endian uint16 tokens when it ends in .u16."""
    mask: Path | None = None
    """As many bytes: 1 where a token counts as a target. None: all count."""
    row: int | None = None
    """Tokens of one example, used whole; None: a stream, of which any window is used."""


class Windows:
    """Random windows of a source, in an order that only the seed decides."""

    def __init__(self, source: Source, context: int, batch: int, seed: int | Sequence[int]) -> None:
        dtype = np.uint16 if source.tokens.suffix == ".u16" else np.uint8
        self.data = np.memmap(source.tokens, dtype=dtype, mode="r")
        self.mask = np.memmap(source.mask, dtype=np.uint8, mode="r") if source.mask else None
        self.row, self.batch = source.row, batch
        self.context = context if source.row is None else source.row - 1
        """Inputs of one example: a row's last token is a target only."""
        self.rng = np.random.default_rng(seed)

    def next(self) -> tuple[NDArray[np.int64], NDArray[np.float32] | None]:
        """Tokens (B, T + 1), and which of the T targets count, (B, T), or None for all."""
        if self.row is None:
            starts = self.rng.integers(0, len(self.data) - self.context, self.batch)
        else:
            starts = self.row * self.rng.integers(0, len(self.data) // self.row, self.batch)
        at = starts[:, None] + np.arange(self.context + 1)
        counts = None if self.mask is None else self.mask[at[:, 1:]].astype(np.float32)
        return self.data[at].astype(np.int64), counts


def fitting(sources: Sequence[Source], context: int) -> Source:
    """The source with the longest rows that fit a context, or the shortest there is."""
    by_row = sorted(sources, key=lambda source: source.row or 0)
    return [by_row[0], *(source for source in by_row if (source.row or 0) <= context)][-1]


def probed(sources: Sequence[Source], context: int, seed: int) -> NDArray[np.int64]:
    """The examples (B, T) of a trial's last report; they follow from its seed, so that an oracle
    can be shown the same ones."""
    windows = Windows(fitting(sources, context), context, PROBE_ROWS, (seed, PROBED))
    return windows.next()[0][:, :-1]
