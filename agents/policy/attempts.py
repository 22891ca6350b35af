"""What the policy sees of an experiment, and what it may choose from.

These values know nothing of tasks, ledgers or sandboxes: the loop translates an experiment
into an :class:`Attempt`, a benchmark table row becomes the same thing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Outcome(StrEnum):
    """What an attempt came to, for learning. One outcome per attempt, set once."""

    PENDING = "pending"
    """In flight: counts as a visit (virtual loss), teaches nothing yet."""
    VALID = "valid"
    """Trained and measured by trusted code; the only outcome with a reward."""
    ABORTED = "aborted"
    """Ended early because its curve could not win."""
    FAILED = "failed"
    """Build failure, crash, timeout or out of memory."""
    INVALID = "invalid"
    """No-op or duplicate, refused before training."""
    TAMPERED = "tampered"
    """An integrity probe failed: teaches its penalty and nothing else."""
    LOST = "lost"
    """Our own fault (environment): teaches nothing at all."""


PENALTY: Mapping[Outcome, float] = {
    Outcome.ABORTED: 0.0,
    Outcome.FAILED: -0.25,
    Outcome.INVALID: -0.5,
    Outcome.TAMPERED: -1.0,
}
"""Learning reward of what is not valid; valid outcomes rank in (0, 1], above all of these."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One experiment as the policy sees it."""

    id: str
    """Outcome id: the experiment's id."""
    program: str
    """Content hash of the program that was tried."""
    parent: str | None = None
    """Id of the parent attempt; None for a baseline or another starting program."""
    genes: Mapping[str, str] = field(default_factory=dict)
    """Part to the variant it holds, for every part the loop can name. A model-written part
    holds a name of its own (for example ``written:1f3a``)."""
    author: str = "seed"
    part: str = ""
    variant: str = ""
    boldness: str = "1"
    rung: str = ""
    outcome: Outcome = Outcome.PENDING
    reward: float | None = None
    """Lower confidence bound of the trusted score, higher is better; None unless valid."""
    cost: float = 1.0
    """What it used, in trials of the full rung."""
    features: Mapping[str, float] = field(default_factory=dict)
    """Task-free extras, all relative: curve shape, NerVE by depth third.
    Names outside :data:`EXTRA_FEATURES` are stored but not read."""

    def __post_init__(self) -> None:
        if (self.reward is not None) != (self.outcome is Outcome.VALID):
            raise ValueError(f"attempt {self.id}: exactly valid attempts have a reward")


EXTRA_FEATURES = (
    "curve_early",
    "curve_late",
    "nerve_first",
    "nerve_middle",
    "nerve_last",
)
"""Curve: loss difference to the incumbent at 1/3 and 2/3 of the schedule over the noise floor
(negative is better). NerVE: participation-ratio gain of the feed-forward layers by depth third
over the baseline's, as a log ratio. Missing values read as 0."""


@dataclass(frozen=True)
class Part:
    """A named part of a program, or a dial, and the values it can take."""

    name: str
    variants: tuple[str, ...]
    """Every value it can hold, the baseline's included. Choosing a variant sets the part to it."""
    ordered: bool = False
    """A dial: variants are in increasing order and a step is a move along them."""


@dataclass(frozen=True, kw_only=True)
class Menu:
    """What there is to choose from. Its order carries no meaning: relabelling changes nothing."""

    parts: tuple[Part, ...]
    authors: tuple[str, ...] = ("catalogue",)
    """``catalogue``, ``tpe`` (optuna over the dials), or the name of a model."""
    boldness: tuple[str, ...] = ("1",)
    """How many parts the catalogue changes at once, as digits; a prompt word for a model."""
    rungs: tuple[str, ...] = ("full",)
    version: str = "0"
    """Catalogue version: another version is another environment."""
    proposer: str = ""
    """Model and prompt version of the authors that are models."""
