"""The scorer gives the right number to honest programs and none to cheats."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nightlab.evals.bits_per_byte import (
    GUARD,
    Guard,
    Probe,
    prefixes,
    replay,
    score,
    windows,
)
from nightlab.evals.oracles import Answering, Oracles, Tokens
from nightlab.vocabulary import Integrity, Measurement

Logits = NDArray[np.float32]
Oracle = Callable[[Tokens], Logits]
CONTEXT = 16


def text(size: int = 1601, seed: int = 0) -> Tokens:
    """Skewed bytes, so that looking ahead pays."""
    return np.random.default_rng(seed).geometric(0.05, size).clip(0, 255).astype(np.uint8)


def bigram(tokens_BT: Tokens) -> Logits:
    """An honest program: the next byte depends on this one only."""
    table = np.random.default_rng(7).normal(size=(256, 256)).astype(np.float32)
    answer: Logits = table[tokens_BT]
    return answer


def measured(
    make: Callable[[], Oracle], context: int = CONTEXT, seed: int = 3, guard: Guard = GUARD
) -> Measurement:
    """Score with two fresh oracles, as the loop does."""
    oracles = Oracles(reader=Answering(make(), context), checker=Answering(make(), context))
    return score(text(), oracles, 512, np.random.default_rng(seed), guard=guard)


def test_bits_per_byte_is_the_mean_code_length_over_every_byte_but_the_first() -> None:
    data = text()
    logits = bigram(data[:-1][None])[0].astype(np.float64)
    logp = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    expected = -logp[np.arange(len(data) - 1), data[1:]].sum() / math.log(2) / (len(data) - 1)
    got = measured(lambda: bigram)
    assert got.metrics["val_bpb"] == pytest.approx(expected, rel=1e-5)
    assert got.integrity is Integrity.CLEAN


def test_a_uniform_program_needs_eight_bits() -> None:
    got = measured(lambda: lambda t: np.zeros((*t.shape, 256), np.float32))
    assert got.metrics["val_bpb"] == pytest.approx(8.0)


@given(st.integers(2, 400), st.integers(1, 64))
@settings(max_examples=60, deadline=None)
def test_every_byte_is_scored_once_whatever_the_context(size: int, context: int) -> None:
    if context > size - 1:
        return
    data = np.arange(size).astype(np.uint8)
    rows_NT, fresh_NT = windows(data, context)
    scored = rows_NT[:, 1:][fresh_NT]
    assert sorted(scored.tolist()) == sorted(data[1:].tolist())


def boosted(logits: Logits, tokens_BT: Tokens, ahead: int) -> Logits:
    """Logits that favour the byte ``ahead`` places on in the same window."""
    out = logits.copy()
    for b in range(len(tokens_BT)):
        for t in range(tokens_BT.shape[1] - ahead):
            out[b, t, tokens_BT[b, t + ahead]] += 20
    return out


def peeking() -> Oracle:
    return lambda t: boosted(bigram(t), t, 1)


def remembering() -> Oracle:
    """Answers better for bytes it has met in earlier calls."""
    counts = np.zeros(256, np.float32)

    def answer(tokens_BT: Tokens) -> Logits:
        logits = bigram(tokens_BT) + np.log1p(counts)
        np.add.at(counts, tokens_BT.ravel(), 1)
        return logits

    return answer


def consistent_liar() -> Oracle:
    """Peeks, and repeats itself for every window it has met, to pass a replay."""
    known: dict[bytes, Logits] = {}

    def answer(tokens_BT: Tokens) -> Logits:
        fresh = boosted(bigram(tokens_BT), tokens_BT, 1)
        pairs = zip(tokens_BT, fresh, strict=True)
        return np.stack([known.setdefault(row.tobytes(), logits) for row, logits in pairs])

    return answer


def neighbourly() -> Oracle:
    """Reads its neighbours in the batch."""

    def answer(tokens_BT: Tokens) -> Logits:
        logits = bigram(tokens_BT)
        logits[..., int(tokens_BT.sum()) % 256] += 3
        return logits

    return answer


@pytest.mark.parametrize("cheat", [peeking, remembering, consistent_liar, neighbourly])
def test_a_cheat_is_caught(cheat: Callable[[], Oracle]) -> None:
    got = measured(cheat)
    assert got.integrity is Integrity.TAMPERED
    assert got.metrics == {}


@pytest.mark.parametrize(
    ("cheat", "probe"),
    [(peeking, prefixes), (consistent_liar, prefixes), (remembering, replay)],
)
def test_a_cheat_wins_without_the_probes_that_catch_it(
    cheat: Callable[[], Oracle], probe: Probe
) -> None:
    """One probe alone catches it; without any, it scores better than the honest program."""
    alone = measured(cheat, guard=Guard(probes=(probe,)))
    assert alone.integrity is Integrity.TAMPERED
    unguarded = measured(cheat, guard=Guard(probes=()))
    assert unguarded.integrity is Integrity.CLEAN
    assert unguarded.metrics["val_bpb"] < measured(lambda: bigram).metrics["val_bpb"] - 0.1


def test_the_probe_that_a_consistent_liar_passes_is_not_enough() -> None:
    assert measured(consistent_liar, guard=Guard(probes=(replay,))).integrity is Integrity.CLEAN


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda t: np.full((*t.shape, 256), np.nan, np.float32), "not finite"),
        (lambda t: np.full((*t.shape, 256), np.inf, np.float32), "not finite"),
        (lambda t: np.zeros((*t.shape, 255), np.float32), "shape"),
        (lambda t: np.zeros((len(t), 256), np.float32), "shape"),
        (lambda t: np.zeros((*t.shape, 256), np.int32), "type"),
    ],
)
def test_malformed_logits_are_refused_with_the_reason(answer: Oracle, reason: str) -> None:
    got = measured(lambda: answer)
    assert got.integrity is Integrity.TAMPERED
    assert reason in got.reasons[0]


def test_unnormalised_output_gains_nothing() -> None:
    honest = measured(lambda: bigram).metrics["val_bpb"]
    shouting = measured(lambda: lambda t: bigram(t) + np.float32(1e4))
    assert shouting.metrics["val_bpb"] == pytest.approx(honest, rel=1e-2)
    believed = measured(
        lambda: lambda t: bigram(t) + np.float32(1e4), guard=Guard(normalise=lambda logits: logits)
    )
    assert believed.metrics["val_bpb"] < 0


def test_an_oracle_that_dies_is_a_failure_and_no_cheat() -> None:
    got = score(
        text(),
        Oracles(reader=Answering(lambda _: None, CONTEXT), checker=Answering(bigram, CONTEXT)),
        512,
        np.random.default_rng(0),
    )
    assert got.metrics == {}
    assert got.integrity is Integrity.CLEAN


@pytest.mark.parametrize("context", [0, -1, 513])
def test_an_impossible_context_is_refused(context: int) -> None:
    assert measured(lambda: bigram, context=context).integrity is Integrity.TAMPERED
