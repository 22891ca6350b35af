"""What an answer is worth, and how diverse a batch of answers is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nightlab.agents.author import formats
from nightlab.agents.author.formats import Format
from nightlab.agents.author.mistake import MisreadError
from nightlab.agents.finetune.selection import Group
from nightlab.agents.policy.rewards import CLIP, entropic_advantages

UNREADABLE = -1.0
"""No edit can be read from it: below everything that a program can come to."""
UNMEASURED = 0.0
"""An edit that was never measured: below every valid one that was, above every failure. A model
that is trained on a table cannot be paid for what the table does not hold."""
REPEATED = -0.5
"""Taken off every further answer of a group that says the same: a group of one trick."""


@dataclass(frozen=True)
class Read:
    """One answer, read."""

    key: tuple[str, ...]
    """Sorted operators; empty where none can be read."""
    worth: float


def read(text: str, group: Group) -> Read:
    """An answer as the loop would read it, and its worth in the group's table."""
    try:
        edit = formats.read(Format.CHOICE, text, group.rows[0].program, group.offered)
    except MisreadError:
        return Read((), UNREADABLE)
    key = tuple(sorted(o.name for o in edit.operators))
    return Read(key, group.worth.get(key, UNMEASURED))


def rewards(texts: Sequence[str], group: Group) -> list[float]:
    """Max-seeking rewards of one group's answers: entropic leave-one-out advantages of their
    worth (arXiv 2601.16175), clipped. Repeats pay."""
    found = [read(text, group) for text in texts]
    seen: set[tuple[str, ...]] = set()
    worth = []
    for one in found:
        worth.append(one.worth + (REPEATED if one.key and one.key in seen else 0.0))
        seen.add(one.key)
    gains = entropic_advantages(np.array([worth]), np.ones((1, len(worth)), dtype=np.bool_))
    return [float(np.clip(gain, *CLIP)) for gain in gains[0]]


@dataclass(frozen=True, kw_only=True)
class Diversity:
    """Answers of one model to the same prompts."""

    answers: int
    usable: float
    """Share from which an edit can be read."""
    distinct: float
    """Share of different edits among the usable ones; 0 where none is usable."""
    operators: int
    """Different operators named."""
    distinct_texts: float
    """Share of different answers, usable or not."""
    mean: float
    best: float
    """Of their worth; both are shown, for a mean can rise while the best falls."""

    @classmethod
    def of(cls, texts: Sequence[str], found: Sequence[Read]) -> "Diversity":
        """From answers and what was read in them, the same number of each."""
        keys = [one.key for one in found if one.key]
        worth = [one.worth for one in found] or [UNREADABLE]
        return cls(
            answers=len(texts),
            usable=len(keys) / max(len(texts), 1),
            distinct=len(set(keys)) / len(keys) if keys else 0.0,
            operators=len({name for key in keys for name in key}),
            distinct_texts=len(set(texts)) / max(len(texts), 1),
            mean=float(np.mean(worth)),
            best=float(np.max(worth)),
        )

    def collapsed(self, start: "Diversity") -> str:
        """Why this counts as a collapse since ``start``; empty where it does not."""
        if self.answers < 4:
            return ""
        if self.distinct_texts < 0.5 * min(start.distinct_texts, 1.0):
            return (
                f"different answers fell from {start.distinct_texts:.0%} "
                f"to {self.distinct_texts:.0%}"
            )
        if start.operators >= 4 and self.operators < 0.5 * start.operators and self.usable > 0.5:
            return f"different operators fell from {start.operators} to {self.operators}"
        return ""
