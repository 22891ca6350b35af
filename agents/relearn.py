"""Learning again, off-policy, from whole campaigns of the ledger."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nightlab.agents import carry, catalogue, past
from nightlab.agents.policy.actor_critic import ActorCritic
from nightlab.agents.policy.explain import MeasuredWorth, measured_worth
from nightlab.agents.policy.interface import Update
from nightlab.agents.policy.stored import cold, warm
from nightlab.memory.ledger import Ledger
from nightlab.vocabulary import Beginning

MOST = 10_000
"""Latest decisions that are read."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What to learn from, and how much."""

    campaigns: tuple[str, ...] = ()
    """All where none is named."""
    beginning: Beginning = Beginning.WARM
    rounds: int = 100
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What one campaign contributed."""

    campaign: str
    decisions: int
    age: float
    likeness: float
    weight: float
    """Largest replay weight of its decisions."""
    skipped: int


@dataclass(frozen=True, kw_only=True)
class Relearned:
    """What came of it."""

    began: str
    """Version in charge before."""
    sources: tuple[Taken, ...]
    """The newest campaign first."""
    update: Update
    worth: MeasuredWorth | None
    """Of what is in charge after it against its prior, on all decisions; None without weights."""
    stored: Path | None
    """Where it is kept; None where nothing was adopted."""

    def facts(self) -> Iterator[tuple[str, str]]:
        """Names and values, for people."""
        numbers, word = self.update.numbers, "adopted" if self.update.adopted else "refused"
        yield "candidate", f"{word}: {self.update.reason}"
        yield "in charge", f"{self.update.version} (was {self.began})"
        yield "decisions", f"{self.update.records}; effective sample size {self.update.ess:.1f}"
        if "value" in numbers:
            for name, key in (("value", "value"), ("value before", "current")):
                low, high = numbers[f"{key}_low"], numbers[f"{key}_high"]
                words = f"{numbers[key]:.3f} [{low:.3f}, {high:.3f}] doubly robust, held out"
                yield name, words
            gap, bound = numbers["difference"], numbers["difference_low"]
            yield "difference", f"{gap:+.4f}, lower 95 % bound {bound:+.4f}"
        if self.worth is not None:
            worth = self.worth
            words = f"{worth.difference:+.3f} over its prior, lower 95 % bound {worth.low:+.3f}"
            yield "worth", f"{words}, on replay of {worth.decisions} decisions"
        yield "stored", str(self.stored) if self.stored else "nothing: what was in charge stays"


def relearn(
    ledger: Ledger,
    home: Path,
    order: Order,
    heard: Callable[[int, Mapping[str, float]], None],
    *,
    store: bool = True,
) -> Relearned:
    """Train a candidate and let the gate decide once.

    What is adopted is kept where campaigns that begin warm look for the newest. Raises UsageError
    for a campaign that is not there.
    """
    campaigns = ledger.campaigns()
    newest = campaigns[-1]
    wanted = [ledger.campaign(name) for name in order.campaigns] or campaigns
    taken = list(past.sources(ledger, wanted, newest, catalogue.CATALOGUE_VERSION, MOST))
    records = [record for source in reversed(taken) for record in source.records]
    policy = _beginning(home, order.beginning)
    began = policy.version
    rng = np.random.default_rng([order.seed, 9])
    update = policy.learn_at_length(records, rng, order.rounds, heard)
    stored = None
    if update.adopted and store:
        carry.store(policy, home, carry.LEARNED)
        stored = home / "policies" / carry.LEARNED
    worth = None
    if policy.weights is not None:
        worth = measured_worth(records, policy.weights, np.random.default_rng(order.seed))
    return Relearned(
        began=began,
        sources=tuple(_taken(source) for source in taken),
        update=update,
        worth=worth,
        stored=stored,
    )


def document(found: Relearned) -> dict[str, object]:
    """What ``nightlab learn --json`` prints."""
    return {
        "began": found.began,
        "sources": [vars(source) for source in found.sources],
        **vars(found.update),
        "worth": None if found.worth is None else vars(found.worth),
        "stored": None if found.stored is None else str(found.stored),
    }


def _beginning(home: Path, how: Beginning) -> ActorCritic:
    """The newest that was stored where it can learn, else what ships."""
    if how is Beginning.COLD:
        return cold()
    newest = carry.newest(home)
    return newest if isinstance(newest, ActorCritic) else warm()


def _taken(source: past.Source) -> Taken:
    from nightlab.agents.policy.batch import replay_weight

    return Taken(
        campaign=source.campaign.id,
        decisions=len(source.records),
        age=source.age,
        likeness=source.likeness,
        weight=max((replay_weight(record) for record in source.records), default=0.0),
        skipped=source.skipped,
    )
