"""The trusted scorer: bits per byte from raw bytes, outside every sandbox.

It sends token batches to two oracles and receives logits. The *reader* answers for every window
of the split; the *checker*, a fresh process that has seen nothing, answers for some of the same
windows with another text behind a random cut, in another order and other batches. A program that
looks ahead, remembers earlier batches, or depends on its neighbours in the batch gives itself away
where the two disagree on the common prefix. Axes: N windows, B batch, T tokens, V vocabulary.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nightlab.evals import corpus
from nightlab.evals.oracles import (
    Floats,
    Oracle,
    Oracles,
    RefusedError,
    Tokens,
    Work,
    log_softmax,
    measured,
    one,
)
from nightlab.evals.task import Source, Splits, Task
from nightlab.vocabulary import Measurement

BATCH_ROWS = 64
ANSWER_VALUES = 64 << 20
"""Most logits of one answer: batches are smaller where windows and vocabulary are large."""
CHECKED_WINDOWS = 48
TOLERANCE = 2e-3
"""Largest difference in log-probability (nats) that rounding may explain."""


@dataclass(frozen=True)
class BitsPerByte:
    """The task's trusted code: a corpus of bytes, scored by code length."""

    task: Task
    guard: "Guard | None" = None
    """What stands between a program and its score; all there is where it is None."""

    @property
    def sources(self) -> tuple[Source, ...]:
        """One stream of tokens, any window of which may be trained on."""
        return (Source(tokens="train.bin"),)

    @property
    def shortest(self) -> int:
        """A program reads windows of its own context."""
        return 0

    def prepare(self, home: Path) -> Splits:
        """The corpus. Raises UsageError and MissingError as :func:`corpus.prepare` does."""
        return corpus.prepare(self.task, home)

    def score(self, split: Path, oracles: Oracles, rng: np.random.Generator) -> Measurement:
        """Bits per byte of a split's file."""
        text = np.fromfile(split, dtype=np.uint8)
        most, vocabulary = self.task.max_context, self.task.vocabulary
        return score(text, oracles, most, rng, vocabulary, self.guard)

    def passages(self, split: Path, rows: int, length: int, rng: np.random.Generator) -> Tokens:
        """Windows as they are scored."""
        return self.sample(split, rows, length, rng)

    def sample(self, split: Path, rows: int, context: int, rng: np.random.Generator) -> Tokens:
        """Windows at places that only the evaluator knows."""
        text = np.fromfile(split, dtype=np.uint8)
        starts = rng.integers(0, len(text) - context + 1, rows)
        windows_BT: Tokens = text[starts[:, None] + np.arange(context)]
        return windows_BT


def score(
    text: Tokens,
    oracles: Oracles,
    max_context: int,
    rng: np.random.Generator,
    vocabulary: int = 256,
    guard: "Guard | None" = None,
) -> Measurement:
    """Bits per byte of ``text`` (its first byte is only an input), with an integrity verdict.

    ``rng`` is the evaluator's; the program cannot know the order of windows, cuts or batches.
    ``guard`` is for tests that show what a cheat would win without a part of it.
    """

    def work(done: Work) -> None:
        context = oracles.context(min(max_context, len(text) - 1))
        reading = Reading(*windows(text, context), vocabulary, rng, guard or GUARD)
        done.metrics["val_bpb"] = reading.bits_per_byte(oracles)

    return measured(work)


def windows(text: Tokens, context: int) -> tuple[Tokens, NDArray[np.bool_]]:
    """Windows (N, context + 1) that cover the text, and which targets (N, context) are new.

    Every byte but the first is a new target exactly once, whatever the context length: the last
    window overlaps the one before it instead of leaving a remainder unscored.
    """
    targets = len(text) - 1
    starts = np.arange(0, targets - context + 1, context)
    if starts[-1] + context < targets:
        starts = np.append(starts, targets - context)
    windows_NT = text[starts[:, None] + np.arange(context + 1)]
    fresh_NT = np.ones((len(starts), context), dtype=bool)
    if len(starts) > 1:
        fresh_NT[-1, : starts[-2] + context - starts[-1]] = False
    return windows_NT, fresh_NT


@dataclass(frozen=True)
class Reading:
    """A text cut into windows (N, T + 1), which of their targets (N, T) count, and how to ask."""

    windows: Tokens
    fresh: NDArray[np.bool_]
    vocabulary: int
    rng: np.random.Generator
    guard: "Guard"

    def bits_per_byte(self, oracles: Oracles) -> float:
        """Mean code length of the new targets, after the probes."""
        count = min(CHECKED_WINDOWS, 4 * self.most_rows())
        chosen = self.rng.permutation(len(self.windows))[:count]
        kept: dict[int, Floats] = {}
        nats = 0.0
        order = self.rng.permutation(len(self.windows))
        for rows in self._batches(order):
            logp_BTV = self.ask(oracles.reader, self.windows[rows, :-1])
            targets_BT1 = self.windows[rows, 1:, None].astype(np.int64)
            picked_BT = np.take_along_axis(logp_BTV, targets_BT1, 2)[..., 0]
            nats -= float(picked_BT[self.fresh[rows]].sum(dtype=np.float64))
            kept |= {int(row): logp_BTV[i] for i, row in enumerate(rows) if row in chosen}
        for probe in self.guard.probes:
            probe(self, oracles, Answers(order[:2], kept))
        return nats / (math.log(2) * int(self.fresh.sum()))

    def most_rows(self) -> int:
        """Windows of one batch at the most."""
        values = int(self.windows.shape[1] - 1) * self.vocabulary
        return min(BATCH_ROWS, 1 + ANSWER_VALUES // values)

    def _batches(self, order: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """The windows in random order, in batches of random size."""
        batches, at, most = [], 0, self.most_rows()
        while at < len(order):
            size = int(self.rng.integers(max(1, most // 2), most + 1))
            batches.append(order[at : at + size])
            at += size
        return batches

    def ask(self, oracle: Oracle, tokens_BT: Tokens) -> Floats:
        """Log-probabilities (B, T, V) by our own log-softmax from whatever the oracle answered."""
        answers = oracle.ask("logits", tokens_BT)
        return self.guard.normalise(one(answers, (*tokens_BT.shape, self.vocabulary)))


@dataclass(frozen=True)
class Answers:
    """What the reader said while it was scored, as far as it is checked."""

    first: NDArray[np.int64]
    """The windows it was asked for first, before it could have learned anything."""
    kept: Mapping[int, Floats]
    """Window to its log-probabilities (T, V)."""


Probe = Callable[[Reading, Oracles, Answers], None]
"""Raises RefusedError where a program gives itself away."""


def replay(reading: Reading, oracles: Oracles, said: Answers) -> None:
    """The reader answers the same for windows it has seen, late and in other company."""
    kept, rng = said.kept, reading.rng
    rows = np.concatenate([said.first, np.array(list(kept), dtype=np.int64)[:6]])
    rng.shuffle(rows)
    logp_BTV = reading.ask(oracles.reader, reading.windows[rows, :-1])
    for i, row in enumerate(rows):
        if int(row) in kept and not _agree(logp_BTV[i], kept[int(row)]):
            raise RefusedError("not stateless: the same window got another answer later")


def prefixes(reading: Reading, oracles: Oracles, said: Answers) -> None:
    """A fresh process, given the same beginnings with other endings, answers the same."""
    kept, rng = said.kept, reading.rng
    rows = np.array(list(kept), dtype=np.int64)
    rng.shuffle(rows)
    context = reading.windows.shape[1] - 1
    size = max(1, min(BATCH_ROWS // 4, reading.most_rows()))
    for batch in np.array_split(rows, max(1, len(rows) // size)):
        tokens_BT = reading.windows[batch, :-1].copy()
        cuts_B = rng.integers(1, context + 1, len(batch))
        for i, cut in enumerate(cuts_B):
            other = int(rng.integers(len(reading.windows)))
            tokens_BT[i, cut:] = reading.windows[other, cut:-1]
        logp_BTV = reading.ask(oracles.checker, tokens_BT)
        for i, (row, cut) in enumerate(zip(batch, cuts_B, strict=True)):
            if not _agree(logp_BTV[i, :cut], kept[int(row)][:cut]):
                raise RefusedError(
                    "not causal, or not stateless: a fresh process given the same beginning "
                    "and another ending answered differently for the beginning"
                )


def _agree(a_TV: Floats, b_TV: Floats) -> bool:
    """Equal within rounding wherever either gives the symbol at least one part in a million."""
    likely = np.maximum(a_TV, b_TV) > math.log(1e-6)
    return bool(np.abs(a_TV - b_TV)[likely].max(initial=0.0) < TOLERANCE)


@dataclass(frozen=True)
class Guard:
    """What stands between a program and its score."""

    probes: tuple[Probe, ...] = (replay, prefixes)
    normalise: Callable[[Floats], Floats] = log_softmax


GUARD = Guard()
