"""A decision and everything that is needed to learn from it later.

A row without its mask, its full distribution and its propensity cannot train anything, so all
of it is frozen at decision time. A decision round-trips through JSON without loss.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from nightlab.agents.policy.attempts import Outcome


class Head(StrEnum):
    """The factors of an action, in the order in which they are drawn."""

    PARENT = "parent"
    AUTHOR = "author"
    BOLDNESS = "boldness"
    PART = "part"
    VARIANT = "variant"
    RUNG = "rung"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One head's draw: what could be drawn, how likely each was, what was drawn."""

    head: Head
    options: tuple[str, ...]
    mask: tuple[bool, ...]
    """True where the option was allowed."""
    mu: tuple[float, ...]
    """The behaviour distribution, floor included; 0 off the mask, sums to 1 on it."""
    index: int
    features: tuple[tuple[float, ...], ...] = ()
    """One row per option, in the order of the features module; empty where nothing was computed."""
    prior: tuple[float, ...] = ()
    """What the policy without learning would have drawn from (before the floor)."""
    value: tuple[float, ...] = ()
    """The critic's estimate per option, where there is a critic."""
    draws: int = 0
    """Number of Thompson draws the distribution was estimated from; 0 where it is exact."""

    def __post_init__(self) -> None:
        count = len(self.options)
        if not (len(self.mask) == len(self.mu) == count and 0 <= self.index < count):
            raise ValueError(f"{self.head}: options, mask, mu and index do not fit together")
        if not self.mask[self.index] or self.mu[self.index] <= 0.0:
            raise ValueError(f"{self.head}: drew an option that had no probability")
        if not math.isclose(sum(self.mu), 1.0, abs_tol=1e-6):
            raise ValueError(f"{self.head}: the distribution sums to {sum(self.mu)}")

    @property
    def chosen(self) -> str:
        """The option that was drawn."""
        return self.options[self.index]


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What the policy chose for one experiment."""

    id: str
    """Outcome id: the experiment that carries it out has the same id."""
    campaign: str
    choices: tuple[Choice, ...]
    """In the order drawn. With boldness k, part and variant appear k times."""
    edits: tuple[tuple[str, str], ...]
    """(part, variant) pairs to apply to the parent. For an author that is a model the variant is
    ``free``; for ``tpe`` one pair per dial that differs from the parent."""
    policy: str
    """Name of the policy."""
    version: str
    """Its version: changes whenever the weights do."""
    catalogue: str
    proposer: str
    seed: str
    """State of the generator before the first draw, as JSON."""
    time: int
    """How many attempts the archive held: orders decisions, and separates held-out ones."""
    lineage: str = ""
    """The parent's family (:meth:`Archive.branch`), the unit of the bootstrap."""
    group: str = ""
    """Decisions whose rewards are compared with each other; empty means the campaign."""
    context: Mapping[str, float] = field(default_factory=dict)
    """Scalars of the campaign at decision time (budget left, progress, noise)."""
    note: str = ""
    """Why this policy was in charge, for example that the gate fell back to the bandit."""

    @property
    def propensity(self) -> float:
        """Joint probability of the factored choice under the behaviour policy."""
        return math.prod(choice.mu[choice.index] for choice in self.choices)

    def choice(self, head: Head) -> Choice:
        """The first draw of a head. Raises KeyError where the head was not drawn."""
        for choice in self.choices:
            if choice.head is head:
                return choice
        raise KeyError(head)

    @property
    def parent(self) -> str:
        """Id of the parent attempt."""
        return self.choice(Head.PARENT).chosen

    @property
    def author(self) -> str:
        return self.choice(Head.AUTHOR).chosen

    @property
    def boldness(self) -> str:
        return self.choice(Head.BOLDNESS).chosen

    @property
    def part(self) -> str:
        """The (first) part to change."""
        return self.edits[0][0] if self.edits else ""

    @property
    def variant(self) -> str:
        """What the (first) part becomes."""
        return self.edits[0][1] if self.edits else ""

    @property
    def rung(self) -> str:
        return self.choice(Head.RUNG).chosen

    def to_json(self) -> str:
        """One line of JSON that :meth:`from_json` reads back to an equal decision."""
        return json.dumps({**asdict(self), "propensity": self.propensity}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "Decision":
        """Read what :meth:`to_json` wrote. Raises KeyError, TypeError or ValueError."""
        row = json.loads(text)
        row.pop("propensity", None)
        row["choices"] = tuple(_choice(choice) for choice in row["choices"])
        row["edits"] = tuple((part, variant) for part, variant in row["edits"])
        return cls(**row)


def _choice(row: Mapping[str, Any]) -> Choice:
    """One choice from parsed JSON, whose types only the constructor's checks vouch for."""
    return Choice(
        head=Head(row["head"]),
        options=tuple(row["options"]),
        mask=tuple(row["mask"]),
        mu=tuple(row["mu"]),
        index=row["index"],
        features=tuple(tuple(line) for line in row["features"]),
        prior=tuple(row["prior"]),
        value=tuple(row["value"]),
        draws=row["draws"],
    )


@dataclass(frozen=True, kw_only=True)
class Record:
    """A decision with what became of it: one row to learn from."""

    decision: Decision
    outcome: Outcome
    reward: float | None
    """Raw score (lower confidence bound), None unless valid. Ignored for any other outcome."""
    cost: float = 1.0
    age: float = 0.0
    """Campaigns that ended since: weights replay."""
    similarity: float = 1.0
    """How alike the campaign's task is to the present one, in [0, 1]: weights replay."""
