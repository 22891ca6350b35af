"""What the learned policy reads: relative, bounded, free of names, one row per option.

Every value is rounded when it is computed, so that what is logged is exactly what was used. No
feature says *which* part, variant or task it is about: one policy serves all of them. Context
scalars are the same for all options of a decision and stored once.
"""

import numpy as np
from numpy.typing import NDArray

from nightlab.agents.policy.attempts import EXTRA_FEATURES, Outcome
from nightlab.agents.policy.evidence import Posterior
from nightlab.agents.policy.ranks import mid_ranks, top_ranks
from nightlab.agents.policy.situation import Edits, Situation

Floats = NDArray[np.float64]

OPTION_WIDTH = 20
"""Columns of a head's own features; shorter heads are padded with 0."""

CONTEXT = ("progress", "log_n", "stagnation", "success_late", "trust", "noise", "open", "steep")
"""Budget used; size of the archive; time since the last record; late success rate; surrogate's
leave-one-out correlation; noise floor over spread; share of open edits; lead of the best."""

PARENT = (
    "rank",
    "z",
    "best",
    "visits",
    "children",
    "child_gain",
    "childless",
    "puct",
    "depth",
    "age",
    "open",
    "edit_mean",
    "edit_gain",
    "edit_gain_rank",
    "own_mean",
    *EXTRA_FEATURES,
)
BANDIT = ("mean", "deviation", "log_prior", "count", "success", "idle", "unused")
PART = (
    *BANDIT,
    "open",
    "edit_mean",
    "edit_gain",
    "edit_gain_rank",
    "edit_deviation",
    "dial",
    "held_by_top",
    "edit_mean_rank",
)
VARIANT = (
    *BANDIT,
    "edit_mean",
    "edit_gain",
    "edit_gain_rank",
    "edit_deviation",
    "held_by_top",
    "effect",
    "step",
    "held_by_best",
    "edit_mean_rank",
)
OTHER = (*BANDIT, "place", "first")
"""Author, boldness and rung: the evidence, and the place in the menu's order where it has one."""


def context_features(situation: Situation) -> dict[str, float]:
    """The scalars of :data:`CONTEXT` by name."""
    archive = situation.archive
    count = len(archive)
    rewards = [a.reward for a in archive.attempts if a.reward is not None]
    last = int(np.argmax(np.array(rewards)))
    gains = situation.evidence.gains[-16:]
    top = np.sort(situation.all_rewards)[::-1][:5]
    numbers = (
        1.0 - situation.context.budget_left,
        np.log1p(count) / 6.0,
        1.0 - (last + 1) / len(rewards),
        float((gains > 0).mean()) if len(gains) else 0.5,
        situation.surrogate.trust() if situation.surrogate is not None else 0.0,
        np.tanh(situation.context.noise / situation.spread),
        float(situation.edits.open.mean()),
        np.tanh(float(top[0] - top[-1]) / situation.spread),
    )
    return {name: round(float(v), 4) for name, v in zip(CONTEXT, numbers, strict=True)}


def parent_features(situation: Situation) -> Floats:
    """Rows of :data:`PARENT`, shape (candidates, OPTION_WIDTH)."""
    archive, rows = situation.archive, situation.rows
    everyone = np.sort(situation.all_rewards)
    rank = np.searchsorted(everyone, situation.rewards, side="right") / len(everyone)
    total = np.log1p(archive.expansions) + 1.0
    best_child = np.array([archive.best_child[row] for row in rows])
    has_child = np.isfinite(best_child)
    child_gain = np.where(has_child, best_child, situation.rewards) - situation.rewards
    edits = situation.edits
    gain = np.where(edits.open, edits.gain, 0.0).max(axis=1, initial=0.0)
    mean = np.where(edits.open, edits.mean, -3.0).max(axis=1, initial=-3.0)
    columns = [
        rank,
        np.clip((situation.rewards - np.median(everyone)) / situation.spread / 3.0, -1, 1),
        situation.rewards >= everyone[-1],
        np.log1p([archive.visits[row] for row in rows]) / total,
        np.log1p([archive.children[row] for row in rows]) / total,
        np.clip(child_gain / situation.spread, -1, 1),
        ~has_child,
        _relative(situation.puct, situation.parent_mask),
        np.clip(np.array([archive.depth[row] for row in rows]) / 10.0, 0, 1),
        1.0 - (np.array(rows) + 1) / len(archive),
        edits.open.mean(axis=1),
        np.clip((mean - situation.best) / 2.0, -1.5, 1),
        _log_gain(gain),
        _rank(gain, situation.parent_mask),
        np.clip((situation.belief[0] - situation.best) / 2.0, -1.5, 1),
        *(
            np.clip([archive.attempts[row].features.get(name, 0.0) for row in rows], -3, 3)
            for name in EXTRA_FEATURES
        ),
    ]
    return _table(columns)


def part_features(
    situation: Situation, edits: Edits, row: int, belief: Posterior, prior: Floats
) -> Floats:
    """Rows of :data:`PART` for the program in ``row`` of ``edits``, shape (parts, width)."""
    parts = situation.archive.menu.parts
    owner = situation.pair_part
    is_open = edits.open[row]
    size = len(parts)
    mean = np.full(size, -3.0)
    gain = np.zeros(size)
    deviation = np.zeros(size)
    np.maximum.at(mean, owner[is_open], edits.mean[row][is_open])
    np.maximum.at(gain, owner[is_open], edits.gain[row][is_open])
    np.maximum.at(deviation, owner[is_open], edits.deviation[row][is_open])
    share = np.bincount(owner, is_open, minlength=size) / np.bincount(owner, minlength=size)
    mask = share > 0
    columns = [
        *_bandit(situation, belief, prior),
        share,
        np.clip((mean - situation.best) / 2.0, -1.5, 1),
        _log_gain(gain),
        _rank(gain, mask),
        deviation,
        np.array([part.ordered for part in parts]),
        _agreement(situation).max(axis=1),
        _rank(mean, mask),
    ]
    return _table(columns)


def variant_features(
    situation: Situation,
    edits: Edits,
    row: int,
    part: int,
    now: int,
    belief: Posterior,
    prior: Floats,
) -> Floats:
    """Rows of :data:`VARIANT` for one part that holds variant ``now``, shape (variants, width)."""
    inside = situation.pair_part == part
    mask = edits.open[row][inside]
    size = int(inside.sum())
    mean = np.where(mask, edits.mean[row][inside], -3.0)
    gain = np.where(mask, edits.gain[row][inside], 0.0)
    held = _agreement(situation)[part][:size]
    best = situation.codes[int(np.argmax(situation.rewards)), part]
    ordered = situation.archive.menu.parts[part].ordered
    step = (
        np.abs(np.arange(size) - now) / max(size - 1, 1) if ordered and now >= 0 else np.ones(size)
    )
    columns = [
        *_bandit(situation, belief, prior),
        np.clip((mean - situation.best) / 2.0, -1.5, 1),
        _log_gain(gain),
        _rank(gain, mask),
        np.where(mask, edits.deviation[row][inside], 0.0),
        held,
        _effect(situation, part, size),
        step,
        np.arange(size) == best,
        _rank(mean, mask),
    ]
    return _table(columns)


def other_features(situation: Situation, belief: Posterior, prior: Floats) -> Floats:
    """Rows of :data:`OTHER` for a head without programs, shape (options, width)."""
    size = len(prior)
    place = np.arange(size) / max(size - 1, 1)
    return _table([*_bandit(situation, belief, prior), place, np.arange(size) == 0])


def _bandit(situation: Situation, belief: Posterior, prior: Floats) -> list[Floats]:
    total = np.log1p(len(situation.evidence.rows)) + 1.0
    return [
        belief.mean,
        belief.deviation,
        np.log(np.maximum(prior, 1e-4)) / 10.0,
        np.log1p(belief.count) / total,
        belief.success,
        belief.idle,
        (belief.count == 0).astype(np.float64),
    ]


def _agreement(situation: Situation) -> Floats:
    """Share of the ten best programs that hold each variant, shape (parts, most variants)."""
    top = situation.codes[np.argsort(-situation.rewards, kind="stable")[:10]]
    width = max(len(part.variants) for part in situation.archive.menu.parts)
    share: Floats = (top[:, :, None] == np.arange(width)).mean(axis=0)
    return share


def _effect(situation: Situation, part: int, size: int) -> Floats:
    """Mean reward rank of the archive's programs that hold each variant, centred, shrunk."""
    archive = situation.archive
    rows = [r for r, a in enumerate(archive.attempts) if a.outcome is Outcome.VALID]
    ranks = mid_ranks(archive.rewards(rows)) / len(rows) - 0.5
    codes = np.array([archive.codes[row][part] for row in rows])
    inside = (codes >= 0) & (codes < size)
    total = np.bincount(codes[inside], ranks[inside], minlength=size)
    effect: Floats = total / (np.bincount(codes[inside], minlength=size) + 2.0)
    return effect


def _relative(values: Floats, mask: NDArray[np.bool_]) -> Floats:
    if not mask.any():
        return np.zeros(len(values))
    clipped: Floats = np.clip(values - values[mask].max(), -2.0, 0.0)
    return clipped


def _rank(values: Floats, mask: NDArray[np.bool_]) -> Floats:
    """1 for the best option, falling by halves: 1, 1/2, 1/3 ...; 0 off the mask."""
    order = top_ranks(np.where(mask, values, -np.inf))
    return np.where(mask, 1.0 / order, 0.0)


def _log_gain(gain: Floats) -> Floats:
    """Expected improvement on a log scale, from -1 (below 1e-6) to about 0."""
    scaled: Floats = np.log10(np.maximum(gain, 1e-6)) / 6.0
    return scaled


def _table(columns: list[Floats] | list[NDArray[np.bool_]]) -> Floats:
    table = np.zeros((len(columns[0]), OPTION_WIDTH))
    for place, column in enumerate(columns):
        table[:, place] = column
    return np.round(table, 4)
