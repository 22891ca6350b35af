"""Earlier campaigns of the same ledger as records to learn from, weighed by age and likeness.

A campaign learns from those that were created and had ended before it was created, and from
nothing else, so that one which is resumed reads what it read the first time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from nightlab.agents import judge
from nightlab.agents.decide import ended_as, from_rows
from nightlab.agents.plan import Plan
from nightlab.agents.policy.bandit import PuctThompson
from nightlab.agents.policy.evidence import spread
from nightlab.agents.policy.features import CONTEXT, OPTION_WIDTH
from nightlab.agents.policy.interface import PENALTY, Decision, Outcome, Policy, Record, Seen
from nightlab.errors import UsageError
from nightlab.memory.ledger import Ledger
from nightlab.memory.records import Campaign, Repeat, Trial
from nightlab.memory.records import Decision as Row
from nightlab.vocabulary import Objective, Rung

MOST = 1000
"""Latest decisions of earlier campaigns that a campaign takes along: older ones weigh little."""
HALVING = 4.0
"""Campaigns after which what was measured about an edit weighs half."""
OTHER_METRIC = 0.5
OTHER_TASK = 0.25
OTHER_CATALOGUE = 0.5
"""Factors of likeness. They say how much less a record counts, not that it is wrong."""


@dataclass(frozen=True)
class Past:
    """What was measured in one campaign, read from the ledger once."""

    campaign: Campaign
    every: Sequence[Trial]
    noise: Sequence[Repeat]

    @classmethod
    def read(cls, ledger: Ledger, campaign: Campaign) -> "Past":
        """One campaign's trials."""
        return cls(campaign, ledger.trials(campaign=campaign.id), ledger.noise_values(campaign.id))

    @property
    def ledger(self) -> "Past":
        """Itself: the trials that it holds."""
        return self

    @property
    def objective(self) -> Objective:
        """What the campaign optimised."""
        return self.campaign.objective

    @property
    def baseline(self) -> str:
        """Experiment id of its baseline."""
        return f"{self.campaign.id}-0"

    @property
    def plan(self) -> Plan:
        """Its rungs by name; what they cost is not looked up, for the task may be gone."""
        settings = self.campaign.settings
        rungs = [Rung(str(settings.get(use, "")), 0.0) for use in ("screen", "confirm")]
        return Plan(screen=rungs[0], confirm=rungs[1], noise_trials=0, workers=1)

    @cached_property
    def _by_experiment(self) -> dict[str, list[Trial]]:
        found: dict[str, list[Trial]] = {}
        for trial in self.every:
            found.setdefault(trial.experiment, []).append(trial)
        return found

    def trials(self, *, campaign: str | None = None, experiment: str | None = None) -> list[Trial]:
        """All trials, or one experiment's."""
        return list(self.every) if experiment is None else self._by_experiment.get(experiment, [])

    def noise_values(self, campaign: str) -> list[Repeat]:
        """The baseline's values."""
        return list(self.noise)


@dataclass(frozen=True, kw_only=True)
class Source:
    """What one campaign gave to learn from."""

    campaign: Campaign
    age: float
    """Campaigns created since."""
    likeness: float
    """In [0, 1]: 1 for the same task and metric."""
    records: tuple[Record, ...] = field(repr=False)
    skipped: int
    """Experiments whose decision cannot be learned from: drawn by a script, or by an older
    policy with other features."""


def before(ledger: Ledger, campaign: Campaign) -> list[Campaign]:
    """Campaigns that had ended when this one was created, oldest first."""
    return [
        other
        for other in ledger.campaigns()
        if other.finished is not None and other.finished <= campaign.created
    ]


def taken_along(ledger: Ledger, campaign: Campaign, policy: Policy, catalogue: str) -> list[Record]:
    """What a policy that learns takes along from earlier campaigns, oldest campaign first."""
    if isinstance(policy, PuctThompson):
        return []
    found = list(sources(ledger, before(ledger, campaign), campaign, catalogue))
    return [record for each in reversed(found) for record in each.records]


def remembered(ledger: Ledger, campaign: Campaign) -> list[Seen]:
    """What earlier campaigns for the same metric of the same task measured about the catalogue's
    edits, the newest first; nothing where the campaign is to begin without."""
    if campaign.settings.get("memory") is False:
        return []
    alike = [each for each in before(ledger, campaign) if likeness(each, campaign) == 1.0]
    found: list[Seen] = []
    for age, each in enumerate(reversed(alike)):
        if len(found) >= MOST:
            break
        found += _seen(ledger, each, 0.5 ** (age / HALVING))
    return found[:MOST]


def _seen(ledger: Ledger, campaign: Campaign, weight: float) -> list[Seen]:
    past = Past.read(ledger, campaign)
    experiments = ledger.experiments(campaign.id)
    trials = {row.id: past.trials(experiment=row.id) for row in experiments}
    rewards = {name: _reward(past, mine) for name, mine in trials.items()}
    scale = spread([reward for reward in rewards.values() if reward is not None])
    found = []
    for row in experiments:
        edits = tuple(_edit(text) for text in row.edits)
        if row.parent is None or row.author != "catalogue" or not edits:
            continue
        outcome, above = ended_as(row, trials[row.id], rewards[row.id]), rewards.get(row.parent)
        reward = rewards[row.id] if outcome is Outcome.VALID else None
        if reward is not None and above is not None:
            gain = min(max((reward - above) / scale, -1.0), 1.0)
        elif outcome in (Outcome.FAILED, Outcome.ABORTED, Outcome.TAMPERED):
            gain = PENALTY[outcome]
        else:
            continue
        found.append(Seen(edits, gain, weight))
    return found


def _edit(text: str) -> tuple[str, str]:
    part, _, variant = text.partition("=")
    return part, variant


def likeness(of: Campaign, to: Campaign) -> float:
    """How much a campaign says about another: the same task and metric say most."""
    if of.task != to.task:
        return OTHER_TASK
    return 1.0 if of.objective.metric == to.objective.metric else OTHER_METRIC


def sources(
    ledger: Ledger, campaigns: Sequence[Campaign], to: Campaign, catalogue: str, most: int = MOST
) -> Iterator[Source]:
    """Each campaign's records, the newest campaign first, at most ``most`` records in all."""
    for age, campaign in enumerate(reversed(campaigns)):
        if most <= 0:
            return
        found = source(ledger, campaign, to, catalogue, float(age))
        kept = found.records[-most:]
        most -= len(kept)
        yield replace(found, records=kept)


def source(ledger: Ledger, campaign: Campaign, to: Campaign, catalogue: str, age: float) -> Source:
    """One campaign's records, oldest first."""
    past, alike = Past.read(ledger, campaign), likeness(campaign, to)
    records, skipped = [], 0
    for experiment in ledger.experiments(campaign.id):
        rows = ledger.decisions(experiment.id)
        if not rows or experiment.verdict is None:
            continue
        decision = whole(rows)
        if decision is None or not readable(decision):
            skipped += 1
            continue
        trials = past.trials(experiment=experiment.id)
        reward = _reward(past, trials)
        outcome = ended_as(experiment, trials, reward)
        same = 1.0 if decision.catalogue == catalogue else OTHER_CATALOGUE
        records.append(
            Record(
                decision=decision,
                outcome=outcome,
                reward=reward if outcome is Outcome.VALID else None,
                age=age,
                similarity=alike * same,
            )
        )
    return Source(
        campaign=campaign, age=age, likeness=alike, records=tuple(records), skipped=skipped
    )


def whole(rows: Sequence[Row]) -> Decision | None:
    """The decision that rows hold; None where they are not all there."""
    try:
        return from_rows(rows)
    except KeyError:
        return None


def readable(decision: Decision) -> bool:
    """Whether a decision holds what this version's learner reads."""
    return set(CONTEXT) <= set(decision.context) and all(
        len(row) == OPTION_WIDTH for choice in decision.choices for row in choice.features
    )


def _reward(past: Past, trials: Sequence[Trial]) -> float | None:
    """None also where the campaign's noise floor was never measured."""
    try:
        return judge.reward(past, trials)
    except UsageError:
        return None
