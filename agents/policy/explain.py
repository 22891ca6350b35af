"""Why a decision was made, what the policy prefers now, what learning is measured to be worth."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nightlab.agents.policy.batch import Replay, teaches
from nightlab.agents.policy.decisions import Choice, Decision, Head, Record
from nightlab.agents.policy.features import CONTEXT, OTHER, PARENT, PART, VARIANT
from nightlab.agents.policy.network import NetworkScorer, Weights

Floats = NDArray[np.float64]

NAMES: Mapping[Head, tuple[str, ...]] = {
    Head.PARENT: PARENT,
    Head.PART: PART,
    Head.VARIANT: VARIANT,
    Head.AUTHOR: OTHER,
    Head.BOLDNESS: OTHER,
    Head.RUNG: OTHER,
}
"""Column names of each head's features."""


@dataclass(frozen=True, kw_only=True)
class Reason:
    """One head of one decision, for people."""

    head: str
    chosen: str
    probability: float
    """With the floor."""
    prior: float
    """What the policy without learning would have given it."""
    value: float | None
    """The critics' foretold advantage; None without critics."""
    rank: int
    """Place of the chosen option by probability, 1 is the likeliest."""
    options: int
    features: Mapping[str, float]
    """The chosen option's features, visits among them."""
    attribution: Mapping[str, float]
    """Change of the chosen option's logit if a feature had been the allowed options' mean; the
    largest first. Empty where no weights were in charge."""

    def __str__(self) -> str:
        why = ", ".join(f"{name} {size:+.2f}" for name, size in list(self.attribution.items())[:3])
        value = "" if self.value is None else f", value {self.value:+.2f}"
        return (
            f"{self.head} {self.chosen}: {self.probability:.0%} (prior {self.prior:.0%}{value}, "
            f"place {self.rank} of {self.options})" + (f" because of {why}" if why else "")
        )


def explain(decision: Decision, weights: Weights | None = None) -> list[Reason]:
    """One reason per head that had a choice. ``weights`` are those of the decision's version."""
    context = np.array([decision.context[name] for name in CONTEXT])
    return [
        replace(_reason(choice, context, weights), chosen=f"{owner}{choice.chosen}")
        for choice, owner in _owned(decision)
        if sum(choice.mask) > 1 and choice.features
    ]


def _owned(decision: Decision) -> Iterator[tuple[Choice, str]]:
    """Each choice with what its options' names need before them: a variant its part."""
    part = ""
    for choice in decision.choices:
        if choice.head is Head.PART:
            part = choice.chosen
        yield choice, f"{part}=" if choice.head is Head.VARIANT else ""


def _reason(choice: Choice, context: Floats, weights: Weights | None) -> Reason:
    names = NAMES[choice.head]
    row = choice.features[choice.index]
    mu = np.array(choice.mu)
    shares: dict[str, float] = {}
    if weights is not None:
        sizes = _attribution(choice, context, weights)
        order = np.argsort(-np.abs(sizes), kind="stable")
        shares = {names[i]: float(sizes[i]) for i in order if i < len(names) and sizes[i] != 0.0}
    return Reason(
        head=str(choice.head),
        chosen=choice.chosen,
        probability=choice.mu[choice.index],
        prior=choice.prior[choice.index] if choice.prior else choice.mu[choice.index],
        value=choice.value[choice.index] if choice.value else None,
        rank=int((mu > mu[choice.index]).sum()) + 1,
        options=sum(choice.mask),
        features=dict(zip(names, row, strict=False)),
        attribution=shares,
    )


def _attribution(choice: Choice, context: Floats, weights: Weights) -> Floats:
    """Logit of the chosen option less its logit with one feature averaged, per feature."""
    table = np.array(choice.features)
    mean = table[np.array(choice.mask)].mean(axis=0)
    row = table[choice.index]
    variants = np.repeat(row[None, :], len(row) + 1, axis=0)
    variants[np.arange(len(row)), np.arange(len(row))] = mean
    logits = NetworkScorer(weights).logits(choice.head, variants, context)
    sizes: Floats = logits[-1] - logits[:-1]
    return sizes


@dataclass(frozen=True, kw_only=True)
class Preference:
    """How much more often an option would be drawn than under the prior; for a policy without
    weights, which is its own prior, than by a uniform draw."""

    head: str
    option: str
    policy: float
    """Mean probability over the decisions that offered it."""
    prior: float
    decisions: int

    @property
    def shift(self) -> float:
        return self.policy - self.prior


def preferences(decisions: Sequence[Decision], weights: Weights | None) -> list[Preference]:
    """What a policy with these weights prefers compared with its prior, over past decisions,
    the largest shift first. Parents are left out: they have no meaning beyond a campaign.

    Without weights: what was drawn from, compared with a uniform draw.
    """
    scorer = None if weights is None else NetworkScorer(weights)
    totals: dict[tuple[str, str], list[float]] = {}
    for decision in decisions:
        context = np.array([decision.context[name] for name in CONTEXT])
        for choice, owner in _owned(decision):
            if choice.head is Head.PARENT or sum(choice.mask) < 2 or not choice.features:
                continue
            mask, prior = np.array(choice.mask), np.array(choice.prior)
            if scorer is None:
                pi, prior = np.array(choice.mu), mask / mask.sum()
            else:
                table = np.array(choice.features)
                pi = scorer.score(choice.head, table, context, prior, mask).probabilities
            for place in np.flatnonzero(mask):
                key = (str(choice.head), f"{owner}{choice.options[place]}")
                total = totals.setdefault(key, [0.0, 0.0, 0.0])
                total[0] += pi[place]
                total[1] += prior[place]
                total[2] += 1.0
    found = [
        Preference(head=h, option=o, policy=p / n, prior=q / n, decisions=int(n))
        for (h, o), (p, q, n) in totals.items()
    ]
    return sorted(found, key=lambda preference: -abs(preference.shift))


@dataclass(frozen=True, kw_only=True)
class MeasuredWorth:
    """Replay of logged decisions: the policy against the bandit without learning."""

    policy: float
    """Doubly-robust mean learning reward."""
    bandit: float
    difference: float
    low: float
    """Lower end of the 95 % interval of the difference, resampling lineages."""
    ess: float
    decisions: int


def measured_worth(
    records: Sequence[Record], weights: Weights, rng: np.random.Generator
) -> MeasuredWorth | None:
    """What learning is worth on these records; None where there are none. Imports torch."""
    from nightlab.agents.policy import model
    from nightlab.agents.policy.gate import lower_bound
    from nightlab.agents.policy.worth import worth

    known = [record for record in records if teaches(record) and record.decision.context]
    replay = Replay()
    if not known:
        return None
    batch = replay.batch(known, *replay.targets(known))
    if not batch.heads:
        return None
    params = model.parameters(weights)
    ours, other = worth(params, batch, params), worth(params, batch, params, bandit=True)
    gap = ours.per_decision - other.per_decision
    return MeasuredWorth(
        policy=ours.dr,
        bandit=other.dr,
        difference=float(gap.mean()),
        low=lower_bound(gap, batch.lineage, rng),
        ess=ours.ess,
        decisions=len(known),
    )
