"""Which program to build on: PUCT over the archive (arXiv 2601.16175, with a lineage block).

    score(s) = Q(s) + c * (R_max - R_min) * P(s) * sqrt(1 + T) / (1 + n(s))

Q is the best reward among the direct children (its own while it has none), P falls linearly with
the rank, n counts expansions of s and of everything below, in-flight ones included.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nightlab.agents.policy.archive import Archive
from nightlab.agents.policy.attempts import Outcome
from nightlab.agents.policy.ranks import mid_ranks

Floats = NDArray[np.float64]


def puct(archive: Archive, rows: Sequence[int], c: float = 1.0) -> Floats:
    """Scores of valid rows in units of the reward range, shape (rows,)."""
    rewards = archive.rewards(rows)
    span = max(float(np.ptp(rewards)), 1e-6 * max(1.0, float(np.abs(rewards).max())))
    children = np.array([archive.best_child[row] for row in rows])
    quality = np.where(np.isfinite(children), children, rewards)
    # ties share a rank, so that the order of arrival carries no weight
    weight = mid_ranks(rewards)
    visits = np.array([archive.visits[row] for row in rows], dtype=np.float64)
    explore = (weight / weight.sum()) * np.sqrt(1.0 + archive.expansions) / (1.0 + visits)
    scores: Floats = (quality - rewards.max()) / span + c * explore
    return scores


def shortlist(archive: Archive, scores: Floats, rows: Sequence[int], size: int) -> list[int]:
    """Positions in ``rows`` of the candidates: the best half by score, the rest by reward."""
    if len(rows) <= size:
        return list(range(len(rows)))
    by_score = np.argsort(-scores, kind="stable")[: size // 2].tolist()
    taken = set(by_score)
    by_reward = np.argsort(-archive.rewards(rows), kind="stable").tolist()
    rest = [position for position in by_reward if position not in taken]
    return sorted(by_score + rest[: size - len(by_score)])


def blocked(archive: Archive) -> set[int]:
    """Rows in the family of a parent with work in flight: a batch must not be one family."""
    family: set[int] = set()
    for row, attempt in enumerate(archive.attempts):
        if attempt.outcome is Outcome.PENDING and archive.parent[row] >= 0:
            family |= archive.lineage_of(archive.parent[row])
    return family
