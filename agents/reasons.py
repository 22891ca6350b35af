"""Why the policy decided as it did, what it prefers by now, and what learning is measured to be
worth: read from the ledger and the stored weights, for screens, documents and the report."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nightlab.agents import carry, past
from nightlab.agents.policy.explain import (
    MeasuredWorth,
    Preference,
    Reason,
    explain,
    measured_worth,
    preferences,
)
from nightlab.agents.policy.interface import Decision
from nightlab.agents.policy.network import Weights
from nightlab.errors import MissingError
from nightlab.memory.ledger import Ledger
from nightlab.memory.records import Campaign, Experiment

LATEST = 30
"""Decisions that a policy without weights is judged by: its beliefs move."""
SHOWN = 12
"""Preferences in a table."""


@dataclass(frozen=True, kw_only=True)
class Why:
    """The policy's part in one experiment."""

    experiment: str
    decision: Decision
    visits: int
    """Experiments that had taken the same parent before."""
    reasons: tuple[Reason, ...]
    attributed: bool
    """Whether the weights of the decision's version were found; without weights nothing is."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """The policy of one campaign."""

    campaign: str
    began: str
    """What it knew at the start: bandit, cold or warm."""
    version: str
    """In charge after the latest record."""
    learned: bool
    """Whether weights are in charge."""
    decisions: int
    versions: Mapping[str, int]
    """Policy and version to the number of decisions they made."""
    preferences: tuple[Preference, ...]
    worth: MeasuredWorth | None
    """None without weights, or with too little to replay."""
    log: tuple[str, ...]
    """What learning said, oldest first."""
    winner: Why | None
    """Why the incumbent was tried; None while the baseline stands."""


def why(ledger: Ledger, home: Path, experiment: str) -> Why:
    """One experiment's decision.

    Raises:
        UsageError: there is no such experiment.
        MissingError: it has no decision, as a baseline has none.
    """
    found = ledger.experiment(experiment)
    rows = ledger.decisions(experiment)
    if not rows:
        what = "is a baseline" if found.number == 0 else "is not decided yet"
        raise MissingError(f"{experiment} {what}: there is no decision to explain")
    if (decision := past.whole(rows)) is None:
        raise MissingError(
            f"{experiment} was decided by a policy that stored too little to explain"
        )
    return _why(ledger.experiments(found.campaign), found, decision, home)


def standing(ledger: Ledger, home: Path, campaign: str, seed: int = 0) -> Standing:
    """A campaign's policy, running or over. Raises UsageError for an unknown campaign."""
    row = ledger.campaign(campaign)
    experiments = ledger.experiments(campaign)
    read = {e.id: past.whole(ledger.decisions(e.id)) for e in experiments}
    decided = {name: decision for name, decision in read.items() if decision is not None}
    decisions = [decision for decision in decided.values() if past.readable(decision)]
    version = _version(home, row, decisions)
    weights = carry.weights_of(home, campaign, version)
    best = row.incumbent
    return Standing(
        campaign=campaign,
        began=str(row.settings.get("policy", "bandit")),
        version=version,
        learned=weights is not None,
        decisions=len(decided),
        versions=Counter(f"{d.policy} {d.version}" for d in decided.values()),
        preferences=tuple(
            preferences(decisions[-LATEST:] if weights is None else decisions, weights)
        ),
        worth=_worth(ledger, row, weights, seed),
        log=tuple(e.message for e in ledger.events(campaign) if e.kind == "learn"),
        winner=(
            _why(experiments, next(e for e in experiments if e.id == best), decided[best], home)
            if best in decided
            else None
        ),
    )


def _why(
    experiments: Sequence[Experiment], found: Experiment, decision: Decision, home: Path
) -> Why:
    weights = carry.weights_of(home, found.campaign, decision.version)
    readable = past.readable(decision)
    return Why(
        experiment=found.id,
        decision=decision,
        visits=sum(e.parent == decision.parent and e.number < found.number for e in experiments),
        reasons=tuple(explain(decision, weights)) if readable else (),
        attributed=readable and weights is not None,
    )


def _version(home: Path, campaign: Campaign, decisions: Sequence[Decision]) -> str:
    policy = carry.stored(home, campaign.id)
    if policy is not None:
        return policy.version
    return decisions[-1].version if decisions else "-"


def _worth(
    ledger: Ledger, campaign: Campaign, weights: Weights | None, seed: int
) -> MeasuredWorth | None:
    if weights is None:
        return None
    own = past.source(ledger, campaign, campaign, catalogue="", age=0.0)
    return measured_worth(own.records, weights, np.random.default_rng(seed))


def why_document(found: Why) -> dict[str, object]:
    """What ``nightlab show EXPERIMENT --policy --json`` prints."""
    decision = found.decision
    return {
        "experiment": found.experiment,
        "parent": decision.parent,
        "author": decision.author,
        "edits": [f"{part}={variant}" for part, variant in decision.edits],
        "policy": decision.policy,
        "version": decision.version,
        "note": decision.note,
        "propensity": decision.propensity,
        "parent_visits": found.visits,
        "context": dict(decision.context),
        "attributed": found.attributed,
        "heads": [vars(reason) for reason in found.reasons],
    }


def standing_document(found: Standing) -> dict[str, object]:
    """What ``nightlab show CAMPAIGN --policy --json`` prints."""
    return {
        "campaign": found.campaign,
        "began": found.began,
        "version": found.version,
        "learned": found.learned,
        "decisions": found.decisions,
        "versions": dict(found.versions),
        "compared_with": compared_with(found),
        "preferences": [{**vars(p), "shift": p.shift} for p in found.preferences],
        "worth": None if found.worth is None else vars(found.worth),
        "log": list(found.log),
        "winner": None if found.winner is None else why_document(found.winner),
    }


def compared_with(found: Standing) -> str:
    """What the preferences are measured against, in words."""
    return "its prior" if found.learned else "a uniform draw"


def worth_words(found: Standing) -> str:
    """What learning is worth on replay, in a sentence."""
    worth = found.worth
    if not found.learned:
        return "No weights are in charge: the policy is its own prior, so nothing is compared."
    if worth is None:
        return "Too few decisions to replay."
    sure = "above" if worth.low > 0 else "not above"
    bound = f"its lower 95 % bound {worth.low:+.3f} is {sure} 0"
    if not np.isfinite(worth.low):
        bound = "one line of descent gives no bound"
    return (
        f"On replay of {worth.decisions} decisions: {worth.policy:.3f} with what was learned, "
        f"{worth.bandit:.3f} without (doubly-robust mean learning reward). The difference is "
        f"{worth.difference:+.3f}; {bound}; "
        f"effective sample size {worth.ess:.0f}."
    )


def markdown(found: Standing) -> str:
    """The report's section on the policy."""
    made = ", ".join(f"{name} ({count})" for name, count in found.versions.items())
    lines = [
        f"It began {found.began}; {found.version} is in charge. Decisions by: {made or 'nobody'}.",
        "",
        worth_words(found),
    ]
    if found.winner is not None and found.winner.reasons:
        visits = found.winner.visits
        times = f"{visits} time{'' if visits == 1 else 's'}"
        name = found.winner.experiment
        lines += ["", f"Why {name}, the winner, was tried (parent taken {times} before):", ""]
        lines += [f"- {reason}" for reason in found.winner.reasons]
    if found.preferences:
        lines += ["", f"What it prefers by now, compared with {compared_with(found)}:", ""]
        lines += ["| head | option | drawn | otherwise | decisions |", "| --- " * 5 + "|"]
        lines += [
            f"| {p.head} | {p.option} | {p.policy:.1%} | {p.prior:.1%} | {p.decisions} |"
            for p in found.preferences[:SHOWN]
        ]
    if found.log:
        lines += ["", "What learning said:", "", *(f"- {line}" for line in found.log[-SHOWN:])]
    return "\n".join(lines)
