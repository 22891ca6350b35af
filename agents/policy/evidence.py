"""What earlier attempts say about authors, parts, variants and boldness: the bandit's evidence.

The gain of an attempt is its reward less its parent's over the spread of the archive, clipped to
[-1, 1]; what is not valid has its penalty instead. Everything is relative, so that a shift or a
scale of the metric changes nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nightlab.agents.policy.archive import Archive
from nightlab.agents.policy.attempts import PENALTY, Outcome

Floats = NDArray[np.float64]

DECAY = 0.99
"""Weight of an attempt relative to the next one: the archive improves, so old gains mislead."""
PRIOR_WEIGHT = 1.0
"""Pseudo-attempts at the mean of all: shrinks what was tried once."""
PRIOR_DEVIATION = 0.35
"""Deviation of one gain before any is known, and the floor of the estimated one's half."""


@dataclass(frozen=True)
class Posterior:
    """Normal belief about the gain of each option, arrays of shape (options,)."""

    mean: Floats
    deviation: Floats
    count: Floats
    """Undecayed number of attempts."""
    success: Floats
    """Share of attempts better than their parent, shrunk to the share of all."""
    idle: Floats
    """Attempts since the option was last used over all attempts; 1 where never."""


class Evidence:
    """Gains of all attempts that have a parent, in order of arrival."""

    def __init__(self, archive: Archive) -> None:
        rows = []
        gains = []
        scale = spread([a.reward for a in archive.attempts if a.reward is not None])
        self.spread = scale
        for row, attempt in enumerate(archive.attempts):
            above = archive.parent[row]
            if above < 0 or attempt.outcome in (Outcome.PENDING, Outcome.LOST):
                continue
            before = archive.attempts[above].reward
            if attempt.reward is None:
                gains.append(PENALTY[attempt.outcome])
            elif before is None:
                continue
            else:
                gains.append(min(max((attempt.reward - before) / scale, -1.0), 1.0))
            rows.append(row)
        self.rows = rows
        self.gains: Floats = np.array(gains, dtype=np.float64)
        self.weights: Floats = DECAY ** np.arange(len(rows) - 1, -1, -1, dtype=np.float64)
        attempts = archive.attempts
        self.parts = [attempts[row].part for row in rows]
        self.variants = [(attempts[row].part, attempts[row].variant) for row in rows]
        self.authors = [attempts[row].author for row in rows]
        self.boldness = [attempts[row].boldness for row in rows]
        self.rungs = [attempts[row].rung for row in rows]
        total = self.weights.sum()
        self.mean = float(self.weights @ self.gains / total) if len(rows) else 0.0
        deviation = float(self.gains.std()) if len(rows) > 3 else PRIOR_DEVIATION
        self.deviation = max(deviation, PRIOR_DEVIATION / 2)

    def about(
        self,
        keys: Sequence[object],
        options: Sequence[object],
        known: tuple[Floats, Floats] | None = None,
    ) -> Posterior:
        """Belief about each option; ``keys`` names the option that each attempt used.

        ``known``: gains and weights of the options in earlier campaigns. They move the mean and
        the deviation; counts, successes and idle times are this campaign's own.
        """
        place = {option: index for index, option in enumerate(options)}
        used = np.array([place.get(key, -1) for key in keys], dtype=np.int64)
        size = len(options)
        inside = used >= 0
        at, weight, gain = used[inside], self.weights[inside], self.gains[inside]
        n = np.bincount(at, weight, minlength=size)
        total = np.bincount(at, weight * gain, minlength=size)
        better = np.bincount(at, gain > 0, minlength=size)
        count = np.bincount(at, minlength=size).astype(np.float64)
        rate = float((self.gains > 0).mean()) if len(self.gains) else 0.5
        last = np.full(size, -1.0)
        np.maximum.at(last, at, np.flatnonzero(inside).astype(np.float64))
        attempts = max(len(keys), 1)
        before, weighs = known if known is not None else (np.zeros(size), np.zeros(size))
        whole = n + PRIOR_WEIGHT + weighs
        return Posterior(
            mean=(total + PRIOR_WEIGHT * self.mean + weighs * before) / whole,
            deviation=self.deviation / np.sqrt(whole),
            count=count,
            success=(better + rate) / (count + 1.0),
            idle=np.where(last < 0, 1.0, (len(keys) - 1 - last) / attempts),
        )


def spread(rewards: Sequence[float]) -> float:
    """Scale of a campaign's valid rewards: half the range of the middle 80 %, never 0."""
    if len(rewards) < 2:
        return 1.0
    ordered = np.sort(np.array(rewards))
    low, high = ordered[len(ordered) // 10], ordered[-1 - len(ordered) // 10]
    if high > low:
        return float(high - low) / 2
    return float(np.ptp(rewards)) or 1.0
