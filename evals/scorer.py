"""The trusted scorer: bits per byte from raw bytes, outside every sandbox.

It sends token batches to two oracles and receives logits. The *reader* answers for every window
of the split; the *checker*, a fresh process that has seen nothing, answers for some of the same
windows with another text behind a random cut, in another order and other batches. A program that
looks ahead, remembers earlier batches, or depends on its neighbours in the batch gives itself away
where the two disagree on the common prefix. Axes: N windows, B batch, T tokens, V vocabulary.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from nightlab.vocabulary import Integrity, Measurement

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Forward = Callable[[Bytes], NDArray[np.generic] | None]
"""Tokens (B, T) to untrusted logits, or None when the oracle has died or passed its limit."""

VOCABULARY = 256
BATCH_ROWS = 64
CHECKED_WINDOWS = 48
TOLERANCE = 2e-3
"""Largest difference in log-probability (nats) that rounding may explain."""


class _RefusedError(Exception):
    """A probe failed; the message says which."""


class _DiedError(Exception):
    """An oracle died or passed its limit: the program's failure, but no sign of a cheat."""


@dataclass(frozen=True, kw_only=True)
class Oracles:
    """Two fresh processes with the same trained program, and its declared context length."""

    context: int
    reader: Forward
    checker: Forward


def parameters(weights: Path) -> int:
    """Number of stored values, from the safetensors header; the program has no say in it."""
    with safe_open(str(weights), framework="numpy") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118


def score(text: Bytes, oracles: Oracles, max_context: int, rng: np.random.Generator) -> Measurement:
    """Bits per byte of ``text`` (its first byte is only an input), with an integrity verdict.

    ``rng`` is the evaluator's; the program cannot know the order of windows, cuts or batches.
    """
    started = time.monotonic()
    try:
        bpb = _bits_per_byte(text, oracles, max_context, rng)
    except (_RefusedError, _DiedError) as refusal:
        tampered = isinstance(refusal, _RefusedError)
        return Measurement(
            metrics={},
            integrity=Integrity.TAMPERED if tampered else Integrity.CLEAN,
            reasons=(str(refusal),),
            scoring_seconds=time.monotonic() - started,
        )
    return Measurement(metrics={"val_bpb": bpb}, scoring_seconds=time.monotonic() - started)


def _bits_per_byte(
    text: Bytes, oracles: Oracles, max_context: int, rng: np.random.Generator
) -> float:
    if not 1 <= oracles.context <= min(max_context, len(text) - 1):
        raise _RefusedError(f"declared a context of {oracles.context}")
    windows_NT, fresh_NT = windows(text, oracles.context)
    chosen = rng.permutation(len(windows_NT))[:CHECKED_WINDOWS]
    kept: dict[int, Floats] = {}
    nats = 0.0
    order = rng.permutation(len(windows_NT))
    for rows in _batches(order, rng):
        logp_BTV = _ask(oracles.reader, windows_NT[rows, :-1])
        targets_BT = windows_NT[rows, 1:]
        picked_BT = np.take_along_axis(logp_BTV, targets_BT[..., None].astype(np.int64), 2)[..., 0]
        nats -= float(picked_BT[fresh_NT[rows]].sum(dtype=np.float64))
        kept |= {int(row): logp_BTV[i] for i, row in enumerate(rows) if row in chosen}
    _check_replay(oracles.reader, windows_NT, order[:2], kept, rng)
    _check_prefixes(oracles.checker, windows_NT, kept, rng)
    return nats / (math.log(2) * int(fresh_NT.sum()))


def windows(text: Bytes, context: int) -> tuple[Bytes, NDArray[np.bool_]]:
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


def _batches(order: NDArray[np.int64], rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """The windows in random order, in batches of random size."""
    batches, at = [], 0
    while at < len(order):
        size = int(rng.integers(BATCH_ROWS // 2, BATCH_ROWS + 1))
        batches.append(order[at : at + size])
        at += size
    return batches


def _ask(forward: Forward, tokens_BT: Bytes) -> Floats:
    """Log-probabilities (B, T, V) by our own log-softmax from whatever the oracle answered."""
    logits = forward(tokens_BT)
    if logits is None:
        raise _DiedError("the oracle died or passed its limit while it was scored")
    if logits.shape != (*tokens_BT.shape, VOCABULARY) or logits.dtype != np.float32:
        raise _RefusedError(f"answered logits of shape {logits.shape} and type {logits.dtype}")
    if not np.isfinite(logits).all():
        raise _RefusedError("answered logits that are not finite")
    logits_BTV = logits.astype(np.float32)
    top = logits_BTV.max(axis=2, keepdims=True)
    shifted = logits_BTV - top
    total = np.exp(shifted).sum(axis=2, keepdims=True)
    logp_BTV: Floats = shifted - np.log(total)
    return logp_BTV


def _check_replay(
    reader: Forward,
    windows_NT: Bytes,
    rows: NDArray[np.int64],
    kept: dict[int, Floats],
    rng: np.random.Generator,
) -> None:
    """The reader answers the same for windows it has seen, late and in other company."""
    rows = np.concatenate([rows, np.array(list(kept), dtype=np.int64)[:6]])
    rng.shuffle(rows)
    logp_BTV = _ask(reader, windows_NT[rows, :-1])
    for i, row in enumerate(rows):
        if int(row) in kept and not _agree(logp_BTV[i], kept[int(row)]):
            raise _RefusedError("not stateless: the same window got another answer later")


def _check_prefixes(
    checker: Forward, windows_NT: Bytes, kept: dict[int, Floats], rng: np.random.Generator
) -> None:
    """A fresh process, given the same beginnings with other endings, answers the same for them."""
    rows = np.array(list(kept), dtype=np.int64)
    rng.shuffle(rows)
    context = windows_NT.shape[1] - 1
    for batch in np.array_split(rows, max(1, len(rows) // (BATCH_ROWS // 4))):
        tokens_BT = windows_NT[batch, :-1].copy()
        cuts_B = rng.integers(1, context + 1, len(batch))
        for i, cut in enumerate(cuts_B):
            other = int(rng.integers(len(windows_NT)))
            tokens_BT[i, cut:] = windows_NT[other, cut:-1]
        logp_BTV = _ask(checker, tokens_BT)
        for i, (row, cut) in enumerate(zip(batch, cuts_B, strict=True)):
            if not _agree(logp_BTV[i, :cut], kept[int(row)][:cut]):
                raise _RefusedError(
                    "not causal, or not stateless: a fresh process given the same beginning and "
                    "another ending answered differently for the beginning"
                )


def _agree(a_TV: Floats, b_TV: Floats) -> bool:
    """Equal within rounding wherever either gives the symbol at least one part in a million."""
    likely = np.maximum(a_TV, b_TV) > math.log(1e-6)
    return bool(np.abs(a_TV - b_TV)[likely].max(initial=0.0) < TOLERANCE)
