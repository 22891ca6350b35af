"""Records as arrays: encoded once, gathered by index for every update and every gate."""

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nightlab.agents.policy.attempts import Outcome
from nightlab.agents.policy.decisions import Record
from nightlab.agents.policy.features import CONTEXT
from nightlab.agents.policy.network import FLOOR, HEADS, INPUT, MEMBERS
from nightlab.agents.policy.rewards import advantages, learning_rewards

Floats = NDArray[np.float32]
Places = NDArray[np.int64]


@dataclass(frozen=True)
class HeadBatch:
    """Every draw of one head in a set of decisions."""

    decision: Places
    """Position of the decision that each draw belongs to, shape (draws,)."""
    place: Places
    """Position of the draw in its decision's order, shape (draws,)."""
    features: Floats
    """Shape (draws, options, INPUT), padded with 0."""
    mask: NDArray[np.bool_]
    mu: Floats
    log_prior: Floats
    index: Places


@dataclass(frozen=True)
class Batch:
    """A set of decisions."""

    heads: dict[int, HeadBatch]
    """By position in HEADS; a head that no decision drew is absent."""
    propensity: Floats
    reward: Floats
    advantage: Floats
    weight: Floats
    """Replay weight: age and similarity."""
    fold: Places
    lineage: Places
    """Number of the bootstrap unit."""

    def __len__(self) -> int:
        return len(self.reward)


@dataclass
class _Encoded:
    heads: list[tuple[int, Floats, NDArray[np.bool_], Floats, Floats, int]]
    propensity: float
    fold: int
    lineage: int


class Replay:
    """Encoded records of every campaign, kept between updates."""

    def __init__(self) -> None:
        self._encoded: dict[str, _Encoded] = {}
        self._campaigns: dict[str, tuple[int, NDArray[np.float64], NDArray[np.float64]]] = {}

    def targets(self, records: Sequence[Record]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Learning rewards and advantages, each of shape (records,)."""
        rewards, gains = np.zeros(len(records)), np.zeros(len(records))
        for campaign, places in by_campaign(records).items():
            known = self._campaigns.get(campaign)
            if known is None or known[0] != len(places):
                mine = [records[place] for place in places]
                known = (len(mine), learning_rewards(mine), advantages(mine))
                self._campaigns[campaign] = known
            rewards[places], gains[places] = known[1], known[2]
        return rewards, gains

    def batch(
        self,
        records: Sequence[Record],
        rewards: NDArray[np.float64],
        gains: NDArray[np.float64],
    ) -> Batch:
        """Gather records with their targets (same order) into arrays."""
        rows = [self._encode(record) for record in records]
        return Batch(
            heads=_heads(rows),
            propensity=np.array([row.propensity for row in rows], np.float32),
            reward=rewards.astype(np.float32),
            advantage=gains.astype(np.float32),
            weight=np.array([replay_weight(record) for record in records], np.float32),
            fold=np.array([row.fold for row in rows], np.int64),
            lineage=np.array([row.lineage for row in rows], np.int64),
        )

    def _encode(self, record: Record) -> _Encoded:
        decision = record.decision
        known = self._encoded.get(decision.id)
        if known is not None:
            return known
        context = np.array([decision.context[name] for name in CONTEXT], np.float32)
        heads = []
        for choice in decision.choices:
            if sum(choice.mask) == 1:
                continue
            features = np.zeros((len(choice.options), INPUT), np.float32)
            if choice.features:
                features[:, : -len(context)] = np.array(choice.features)
            features[:, -len(context) :] = context
            prior = np.array(choice.prior or choice.mu)
            logs = np.log(np.maximum(prior, FLOOR)).astype(np.float32)
            mask = np.array(choice.mask)
            mu = np.array(choice.mu, np.float32)
            heads.append((HEADS.index(choice.head), features, mask, mu, logs, choice.index))
        block = f"{decision.campaign}:{decision.time // 8}".encode()
        family = f"{decision.campaign}:{decision.lineage}".encode()
        known = _Encoded(
            heads, decision.propensity, zlib.crc32(block) % MEMBERS, zlib.crc32(family)
        )
        self._encoded[decision.id] = known
        return known


def teaches(record: Record) -> bool:
    """Whether a record says anything: it ended, and not by our own fault."""
    return record.outcome not in (Outcome.PENDING, Outcome.LOST)


def by_campaign(records: Iterable[Record]) -> dict[str, list[int]]:
    """Campaign to positions of its records, in the order given."""
    places: dict[str, list[int]] = {}
    for place, record in enumerate(records):
        places.setdefault(record.decision.campaign, []).append(place)
    return places


def replay_weight(record: Record) -> float:
    """How much a stored record counts: halves every four campaigns, times the similarity."""
    return float(max(record.similarity, 0.05) * 0.5 ** (record.age / 4.0))


def _heads(rows: list[_Encoded]) -> dict[int, HeadBatch]:
    draws: dict[int, list[tuple[int, int, _Encoded]]] = {}
    for number, row in enumerate(rows):
        for place, entry in enumerate(row.heads):
            draws.setdefault(entry[0], []).append((number, place, row))
    return {head: _pad(entries) for head, entries in sorted(draws.items())}


def _pad(entries: list[tuple[int, int, _Encoded]]) -> HeadBatch:
    choices = [row.heads[place] for _, place, row in entries]
    shape = (len(choices), max(len(choice[2]) for choice in choices))
    features = np.zeros((*shape, INPUT), np.float32)
    mask = np.zeros(shape, np.bool_)
    mu, logs = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for at, choice in enumerate(choices):
        size = len(choice[2])
        features[at, :size], mask[at, :size] = choice[1], choice[2]
        mu[at, :size], logs[at, :size] = choice[3], choice[4]
    return HeadBatch(
        decision=np.array([number for number, _, _ in entries], np.int64),
        place=np.array([place for _, place, _ in entries], np.int64),
        features=features,
        mask=mask,
        mu=mu,
        log_prior=logs,
        index=np.array([choice[5] for choice in choices], np.int64),
    )
