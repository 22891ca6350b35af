"""What earlier campaigns measured about edits, as evidence at the start of the next one.

The gain of an experiment over its parent is taken as the sum of its edits' gains; ridge regression
over all that is remembered says what each edit is worth alone (on ``byte_lm`` such a sum foretells
programs of two to five edits with a correlation of 0.87, docs/bench-search.md). Gains are relative
to the spread of their own campaign, as in :mod:`nightlab.agents.policy.evidence`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Edit = tuple[str, str]
"""A part and the variant that it is set to."""

RIDGE = 1.0
"""Pseudo-experiments that say that an edit does nothing."""
MOST_WEIGHT = 3.0
"""Experiments of its own campaign that the memory of one edit weighs at the most: what was true of
other parents is evidence, and no certainty."""


@dataclass(frozen=True)
class Seen:
    """One experiment of an earlier campaign."""

    edits: tuple[Edit, ...]
    gain: float
    """Over its parent, in spreads of its campaign, clipped to [-1, 1]; a penalty if it failed."""
    weight: float = 1.0
    """Less the longer ago."""


class Memory:
    """Gain and weight of every edit that was tried before; empty at a ledger's first campaign."""

    def __init__(self, seen: Sequence[Seen] = ()) -> None:
        self.experiments = len(seen)
        edits = sorted({edit for each in seen for edit in each.edits})
        place = {edit: column for column, edit in enumerate(edits)}
        table = np.zeros((len(seen), len(edits)))
        for row, each in enumerate(seen):
            table[row, [place[edit] for edit in each.edits]] = 1.0
        weights = np.array([each.weight for each in seen])
        gains = np.array([each.gain for each in seen])
        weighed = table * weights[:, None]
        gram = weighed.T @ table + RIDGE * np.eye(len(edits))
        alone = np.linalg.solve(gram, weighed.T @ gains)
        often = np.minimum(weighed.sum(axis=0), MOST_WEIGHT)
        self._edits: dict[Edit, tuple[float, float]] = {
            edit: (float(alone[column]), float(often[column])) for edit, column in place.items()
        }

    def part(self, part: str, variants: Sequence[str]) -> tuple[float, float]:
        """Gain and weight of the best edit of a part to one of these variants, which is the one to
        try again; 0 where nothing is known."""
        found = [self._edits[part, v] for v in variants if (part, v) in self._edits]
        return max(found, default=(0.0, 0.0))

    def variants(self, part: str, variants: Sequence[str]) -> tuple[Floats, Floats]:
        """Gain and weight per variant of a part, shape (variants,)."""
        known = [self._edits.get((part, variant), (0.0, 0.0)) for variant in variants]
        rows = np.array(known, dtype=np.float64).reshape(-1, 2)
        return rows[:, 0], rows[:, 1]
