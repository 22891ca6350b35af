"""From raw scores to what is learned: ranks, penalties, advantages that favour the maximum."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nightlab.agents.policy.attempts import PENALTY, Outcome
from nightlab.agents.policy.decisions import Record

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

WINDOW = 64
"""Valid outcomes that a reward is ranked among: the archive improves, old ranks go stale."""
GROUP = 8
"""Decisions compared with each other: consecutive ones of one campaign."""
CLIP = (-1.0, 5.0)
"""Bounds of an advantage."""


def learning_rewards(records: Sequence[Record]) -> Floats:
    """Rewards of one campaign's records in order of time, shape (records,).

    A valid one has its mid-rank in the window that ends with it, in (0, 1); another outcome has
    its penalty, and its score, whatever it is, enters no window.
    """
    valid, raw, result = _read(records)
    scores = raw[valid]
    padded = np.concatenate([np.full(WINDOW - 1, np.nan), scores])
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)
    below = (windows < scores[:, None]).sum(axis=1) + 0.5 * (windows == scores[:, None]).sum(axis=1)
    result[valid] = below / np.minimum(np.arange(1, len(scores) + 1), WINDOW)
    return result


def advantages(records: Sequence[Record]) -> Floats:
    """Entropic advantages of one campaign's records in order of time, in consecutive groups.

    Records with an explicit ``decision.group`` are compared with each other instead.
    """
    groups: dict[str, list[int]] = {}
    plain = 0
    for place, record in enumerate(records):
        key = record.decision.group
        if not key:
            key = f"#{plain // GROUP}"
            plain += 1
        groups.setdefault(key, []).append(place)
    result = np.zeros(len(records))
    if not groups:
        return result
    width = max(len(places) for places in groups.values())
    table = np.full((len(groups), width), -1, dtype=np.int64)
    for row, places in enumerate(groups.values()):
        table[row, : len(places)] = places
    member = table >= 0
    valid, raw, penalty = _read(records)
    unit = unit_scores(raw[table], valid[table] & member, penalty[table])
    gains = entropic_advantages(unit, member)
    result[table[member]] = gains[member]
    return result


def unit_scores(raw: Floats, valid: Mask, penalty: Floats) -> Floats:
    """Scores on [0, 1] per row, those that are not valid below 0 by their penalty.

    All of shape (groups, members); what ``raw`` holds where not ``valid`` is not read.
    """
    low = np.where(valid, raw, np.inf).min(axis=1, keepdims=True)
    high = np.where(valid, raw, -np.inf).max(axis=1, keepdims=True)
    span = np.where(high > low, high - low, 1.0)
    unit = np.where(high > low, (np.where(valid, raw, 0.0) - low) / span, 0.5)
    # below the worst valid score, in the order of the penalties
    result: Floats = np.where(valid, unit, -0.05 + 0.2 * penalty)
    return result


def entropic_advantages(unit: Floats, member: Mask) -> Floats:
    """Leave-one-out entropic advantages (arXiv 2601.16175), shape (groups, members).

    Per group the temperature solves KL(q_beta || uniform) = ln 2 with q_beta proportional to
    exp(beta * r); then A_n = e_n / mean of the others' e - 1, clipped to :data:`CLIP`. Shifts and
    scale of the rewards change nothing. Groups of fewer than four, or of equal rewards, teach
    nothing.
    """
    count = member.sum(axis=1, keepdims=True)
    high = np.where(member, unit, -np.inf).max(axis=1, keepdims=True)
    low = np.where(member, unit, np.inf).min(axis=1, keepdims=True)
    span = high - low
    usable = (count >= 4) & (span > 0)
    scaled = np.where(member, (unit - high) / np.where(span > 0, span, 1.0), -np.inf)
    beta = _inverse_temperature(scaled, count)
    with np.errstate(invalid="ignore"):
        weight = np.where(member, np.exp(beta * scaled), 0.0)
    others = (weight.sum(axis=1, keepdims=True) - weight) / np.maximum(count - 1, 1)
    gains = np.clip(weight / (others + 1e-12) - 1.0, *CLIP)
    return np.where(usable & member, gains, 0.0)


def _inverse_temperature(scaled: Floats, count: NDArray[np.int64]) -> Floats:
    """Bisection for all groups at once, shape (groups, 1); the cap where KL stays below ln 2."""

    def divergence(beta: Floats) -> Floats:
        with np.errstate(invalid="ignore"):
            q = np.where(np.isfinite(scaled), np.exp(beta * scaled), 0.0)
        q = q / q.sum(axis=1, keepdims=True)
        kl: Floats = (q * np.log(np.maximum(q, 1e-300) * count)).sum(axis=1, keepdims=True)
        return kl

    low, high = np.zeros(count.shape), np.ones(count.shape)
    while True:
        short = (divergence(high) < np.log(2.0)) & (high < 1e6)
        if not short.any():
            break
        high = np.where(short, high * 2.0, high)
    capped = high >= 1e6
    for _ in range(50):
        middle = (low + high) / 2.0
        under = divergence(middle) < np.log(2.0)
        low, high = np.where(under, middle, low), np.where(under, high, middle)
    return np.where(capped, 1e6, high)


def _read(records: Sequence[Record]) -> tuple[Mask, Floats, Floats]:
    """(valid, raw score or NaN, penalty) of each record."""
    valid = np.array([record.outcome is Outcome.VALID for record in records], dtype=np.bool_)
    raw = np.full(len(records), np.nan)
    penalty = np.zeros(len(records))
    for place, record in enumerate(records):
        if not valid[place]:
            penalty[place] = PENALTY.get(record.outcome, 0.0)
        elif record.reward is None:
            raise ValueError(f"record {record.decision.id} is valid and has no reward")
        else:
            raw[place] = record.reward
    return valid, raw, penalty
