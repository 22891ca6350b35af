"""What the loop uses of the policy. Everything else in this package is the policy's own.

archive = Archive(menu, attempts_from_the_ledger)
decision = policy.choose(Context(archive=archive, ...), rng)      # store decision.to_json()
archive.record(Attempt(id=decision.id, outcome=Outcome.PENDING, ...))     # in flight
archive.record(Attempt(id=decision.id, outcome=Outcome.VALID, ...))       # its outcome, once
update = policy.learn(records, rng)                               # visible in the log
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from nightlab.agents.policy.archive import Archive, Candidate
from nightlab.agents.policy.attempts import (
    EXTRA_FEATURES,
    PENALTY,
    Attempt,
    Menu,
    Outcome,
    Part,
)
from nightlab.agents.policy.decisions import Choice, Decision, Head, Record
from nightlab.agents.policy.memory import Memory, Seen


@dataclass(frozen=True, kw_only=True)
class Context:
    """The situation a decision is made in."""

    campaign: str
    id: str
    """Id for the decision and the experiment that will carry it out."""
    archive: Archive
    budget_left: float
    """Share of the campaign's budget that is left, in [0, 1]."""
    noise: float = 0.0
    """Noise floor: standard deviation of the reward between seeds, in the reward's unit."""
    closed: Mapping[str, frozenset[tuple[str, str]]] = field(default_factory=dict)
    """Parent attempt id to (part, variant) pairs that are invalid there. What would repeat a
    program that the archive holds is closed by the policy itself."""
    closed_authors: frozenset[str] = frozenset()
    """Authors that cannot be asked now (no key, budget spent)."""
    usd: Mapping[str, float] = field(default_factory=dict)
    """Mean USD of a proposal, of the authors whose price is known."""
    only: Mapping[Head, frozenset[str]] = field(default_factory=dict)
    """A directive's restriction: the options a person allows, per head. A restriction that would
    leave nothing is ignored and noted in the decision."""


@dataclass(frozen=True, kw_only=True)
class Update:
    """What one call of ``learn`` did, for the log."""

    adopted: bool
    version: str
    """Version in charge after the call."""
    reason: str
    """In words: which bound held or failed."""
    records: int = 0
    ess: float = 0.0
    """Effective sample size of the candidate on the held-out decisions."""
    numbers: Mapping[str, float] = field(default_factory=dict)
    """Everything else worth a line: values, bounds, losses, entropy, KL, seconds."""
    judged: bool = False
    """Whether the gate was asked this time."""

    def __str__(self) -> str:
        word = "adopted" if self.adopted else "kept"
        words = f"policy {self.version} {word}: {self.reason} (ESS {self.ess:.0f}"
        n = self.numbers
        if "value" in n:
            words += f", value {n['value']:.3f} against {n['current']:.3f}"
        return f"{words}, {self.records} decisions)"


class Policy(Protocol):
    """Chooses what to try next, and learns from what became of it."""

    def choose(self, context: Context, rng: np.random.Generator) -> Decision:
        """Draw an action. Raises NightlabError where nothing at all is left to try."""
        ...

    def learn(self, records: Sequence[Record], rng: np.random.Generator) -> Update:
        """Learn from every stored record of interest; cheap enough to call after each one."""
        ...

    def save(self, folder: Path) -> None:
        """Write what a bit-exact resume needs; ``nightlab.agents.policy.stored.load`` reads it."""
        ...


__all__ = [
    "EXTRA_FEATURES",
    "PENALTY",
    "Archive",
    "Attempt",
    "Candidate",
    "Choice",
    "Context",
    "Decision",
    "Head",
    "Memory",
    "Menu",
    "Outcome",
    "Part",
    "Policy",
    "Record",
    "Seen",
    "Update",
]
