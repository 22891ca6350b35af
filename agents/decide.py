"""Decide: translate the ledger into the policy's archive, ask it, and store what it answered."""

import json
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nightlab.agents import carry, catalogue, directives, judge, spectra
from nightlab.agents.lab import Lab
from nightlab.agents.policy.interface import (
    Archive,
    Attempt,
    Context,
    Decision,
    Memory,
    Menu,
    Outcome,
    Part,
    Policy,
    Record,
)
from nightlab.agents.question import UNANSWERED
from nightlab.memory.records import JSON, Experiment, Trial
from nightlab.memory.records import Decision as Row
from nightlab.vocabulary import Ending, Program, Verdict

WHOLE = "decision"
"""Head under which the rest of a decision is stored, beside one row per choice."""
_OUTCOMES = {
    Verdict.INVALID: Outcome.INVALID,
    Verdict.FAILED: Outcome.FAILED,
    Verdict.REJECTED: Outcome.TAMPERED,
}


def menu(authors: Sequence[str]) -> Menu:
    """Everything the catalogue offers, as the policy sees it."""
    parts = tuple(Part(p.name, p.variants, p.ordered) for p in catalogue.parts())
    return Menu(
        parts=parts,
        authors=tuple(authors),
        boldness=("1", "2", "3"),
        version=catalogue.CATALOGUE_VERSION,
    )


@dataclass
class Decider:
    """The policy of one campaign, with its archive; one decision at a time."""

    lab: Lab
    policy: Policy
    menu: Menu
    unavailable: Callable[[], Set[str]] = frozenset
    """Authors that can no longer be asked."""
    home: Path | None = None
    """Where the policy is kept after every record; None keeps it nowhere."""
    past: Sequence[Record] = ()
    """Records of earlier campaigns that the policy learns from beside its own."""
    memory: Memory = field(default_factory=Memory)
    """What they measured about edits."""
    archive: Archive = field(init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _programs: dict[str, Program] = field(default_factory=dict)
    _records: dict[str, Record] = field(default_factory=dict)
    _bonuses: dict[str, float] = field(default_factory=dict)
    """Shaping by spectra, too small to change an order."""
    _reading: "_Reading" = field(default_factory=lambda: _Reading())

    def __post_init__(self) -> None:
        self.archive = Archive(self.menu, memory=self.memory)
        for experiment in self.lab.ledger.experiments(self.lab.campaign.id):
            if experiment.program is not None or experiment.number > 0:
                self.archive.record(self._attempt(experiment))

    def decide(self, experiment: str) -> Decision:
        """The stored decision of an experiment, or a new one, which is then in flight."""
        if rows := self.lab.ledger.decisions(experiment):
            return from_rows(rows)
        with self._lock:
            context = Context(
                campaign=self.lab.campaign.id,
                id=experiment,
                archive=self.archive,
                budget_left=self._budget_left(),
                noise=judge.noise_floor(self.lab, self.lab.plan.screen).paired_sd,
                closed=self._closed(),
                closed_authors=self._closed_authors(),
                usd=self._usd(),
                only=directives.take_up(self.lab, self.menu),
            )
            number = self.lab.ledger.experiment(experiment).number
            rng = np.random.default_rng([self.lab.campaign.seed, 7, number])
            decision = self.policy.choose(context, rng)
            self.lab.ledger.record_decisions(experiment, to_rows(decision))
            self.archive.record(self._pending(experiment, decision))
        return decision

    def settle(self, experiment: str) -> None:
        """Tell the archive what became of a concluded experiment, and let the policy learn."""
        row = self.lab.ledger.experiment(experiment)
        if row.verdict is None:
            return
        with self._lock:
            known = self.archive.row.get(experiment)
            settled = known is not None and (
                self.archive.attempts[known].outcome is not Outcome.PENDING
            )
            if not settled:
                self.archive.record(self._attempt(row))
            rng = np.random.default_rng([self.lab.campaign.seed, 8, row.number])
            update = self.policy.learn(self._records_so_far(), rng)
            if self.home is not None:
                carry.store(self.policy, self.home, self.lab.campaign.id)
        if update.judged:
            self.lab.log("learn", str(update), experiment)

    def _records_so_far(self) -> list[Record]:
        """Decisions with their outcomes, the past's first; each is read from the ledger once."""
        for attempt in self.archive.attempts:
            if attempt.outcome is Outcome.PENDING or attempt.id in self._records:
                continue
            if rows := self.lab.ledger.decisions(attempt.id):
                self._records[attempt.id] = Record(
                    decision=from_rows(rows), outcome=attempt.outcome, reward=attempt.reward
                )
                if attempt.parent is not None:
                    self._bonuses[attempt.id] = spectra.bonus(self.lab, attempt.id, attempt.parent)
        return [*self.past, *spectra.shaped(list(self._records.values()), self._bonuses)]

    def _usd(self) -> Mapping[str, float]:
        """Mean USD of a proposal per author with a known price; nothing to weigh with one model."""
        if len(set(self.menu.authors) - {"catalogue"}) < 2:
            return {}
        calls = self.lab.ledger.calls(self.lab.campaign.id)
        asked = Counter(attempt.author for attempt in self.archive.attempts)
        spent: dict[str, float] = {}
        for call in calls:
            if call.usd is not None:
                spent[call.model] = spent.get(call.model, 0.0) + call.usd
        return {name: usd / asked[name] for name, usd in spent.items() if usd > 0 and asked[name]}

    def _closed_authors(self) -> frozenset[str]:
        """Authors that cannot be asked; none where that would leave nobody."""
        closed = frozenset(self.unavailable())
        return closed if closed < frozenset(self.menu.authors) else frozenset()

    def _budget_left(self) -> float:
        budget, spent = self.lab.objective.budget, self.lab.ledger.spent(self.lab.campaign.id)
        shares = [1.0]
        if budget.seconds:
            shares.append(1.0 - spent.wall_seconds / budget.seconds)
        if budget.trials:
            shares.append(1.0 - spent.trials / budget.trials)
        return max(0.0, min(shares))

    def _closed(self) -> Mapping[str, frozenset[tuple[str, str]]]:
        """Edits that cannot be made, per program that could be a parent."""
        closed = {}
        for row in self.archive.valid_rows():
            attempt = self.archive.attempts[row]
            closed[attempt.id] = self._reading.closed(self._program(attempt.program))
        return closed

    def _program(self, program: str) -> Program:
        if program not in self._programs:
            self._programs[program] = self.lab.ledger.program(program).program
        return self._programs[program]

    def _pending(self, experiment: str, decision: Decision) -> Attempt:
        parent = self.archive.attempts[self.archive.row[decision.parent]]
        return Attempt(
            id=experiment,
            program="",
            parent=decision.parent,
            genes={**parent.genes, **dict(decision.edits)},
            author=decision.author,
            part=decision.part,
            variant=decision.variant,
            boldness=decision.boldness,
        )

    def _author(self, experiment: Experiment) -> str:
        """Who wrote it, or was asked to."""
        if experiment.author or experiment.number == 0:
            return experiment.author if experiment.number else "seed"
        rows = self.lab.ledger.decisions(experiment.id)
        return from_rows(rows).author if rows else ""

    def _attempt(self, experiment: Experiment) -> Attempt:
        if experiment.verdict is None and experiment.number > 0:
            rows = self.lab.ledger.decisions(experiment.id)
            if rows:
                return self._pending(experiment.id, from_rows(rows))
        trials = self.lab.ledger.trials(experiment=experiment.id)
        reward = judge.reward(self.lab, trials)
        outcome = ended_as(experiment, trials, reward)
        program = self._program(experiment.program) if experiment.program else None
        part, _, variant = experiment.operator.partition(":")
        return Attempt(
            id=experiment.id,
            program=experiment.program or "",
            parent=experiment.parent,
            genes=self._reading.genes(program) if program else {},
            author=self._author(experiment),
            part=part,
            variant=variant,
            boldness=str(max(1, len(experiment.edits))),
            outcome=outcome,
            reward=reward if outcome is Outcome.VALID else None,
            features=spectra.gains(self.lab, experiment.id) if outcome is Outcome.VALID else {},
        )


def ended_as(experiment: Experiment, trials: Sequence[Trial], reward: float | None) -> Outcome:
    """What an experiment came to, as the policy learns from it."""
    if experiment.verdict is None and experiment.number > 0:
        return Outcome.PENDING
    if experiment.reason.startswith(UNANSWERED):
        return Outcome.LOST
    if experiment.verdict in _OUTCOMES:
        return _OUTCOMES[experiment.verdict]
    if any(t.run is not None and t.run.ending is Ending.ABORTED for t in trials):
        return Outcome.ABORTED
    if reward is None:
        return Outcome.LOST if not trials else Outcome.FAILED
    return Outcome.VALID


class _Reading:
    """What the catalogue says of each program, worked out once per program id."""

    def __init__(self) -> None:
        self._genes: dict[str, Mapping[str, str]] = {}
        self._closed: dict[str, frozenset[tuple[str, str]]] = {}

    def genes(self, program: Program) -> Mapping[str, str]:
        """Which variant each part holds."""
        if program.id not in self._genes:
            written = f"written:{program.id[:6]}"
            self._genes[program.id] = {
                part: written if variant == catalogue.EDITED else variant
                for part, variant in catalogue.current(program).items()
            }
        return self._genes[program.id]

    def closed(self, program: Program) -> frozenset[tuple[str, str]]:
        """Edits that would change the program but cannot be made."""
        if program.id not in self._closed:
            genes = self.genes(program)
            self._closed[program.id] = frozenset(
                (o.part, o.variant)
                for o in catalogue.operators()
                if genes.get(o.part) != o.variant and not o.applicable(program)
            )
        return self._closed[program.id]


def to_rows(decision: Decision) -> list[Row]:
    """One ledger row per choice, and one for what they share."""
    rest = json.loads(decision.to_json())
    del rest["choices"]
    shared = {"policy": decision.policy, "version": decision.version}
    rows = [
        Row(
            head=f"{index}:{choice.head}",
            action=choice.chosen,
            features=_json(asdict(choice), but=("mask", "mu", "head")),
            mask=list(choice.mask),
            distribution=list(choice.mu),
            propensity=choice.mu[choice.index],
            seed=index,
            **shared,
        )
        for index, choice in enumerate(decision.choices)
    ]
    whole = Row(
        head=WHOLE,
        action=" ".join(f"{part}={variant}" for part, variant in decision.edits),
        features=rest,
        mask=[],
        distribution=[],
        propensity=decision.propensity,
        seed=len(rows),
        **shared,
    )
    return [*rows, whole]


def from_rows(rows: Sequence[Row]) -> Decision:
    """The decision that :func:`to_rows` took apart; rows of other heads are passed over.

    Raises:
        KeyError: the rows are not complete.
    """
    by_head = {row.head: row for row in rows}
    whole = by_head.pop(WHOLE)
    choices = []
    numbered = [row for head, row in by_head.items() if head.partition(":")[0].isdigit()]
    for row in sorted(numbered, key=lambda r: int(r.head.partition(":")[0])):
        head = row.head.partition(":")[2]
        features = dict(row.features) if isinstance(row.features, Mapping) else {}
        choices.append({**features, "head": head, "mask": row.mask, "mu": row.distribution})
    rest = dict(whole.features) if isinstance(whole.features, Mapping) else {}
    return Decision.from_json(json.dumps({**rest, "choices": choices}))


def _json(table: Mapping[str, Any], but: Sequence[str]) -> Mapping[str, JSON]:
    kept: Mapping[str, JSON] = {key: value for key, value in table.items() if key not in but}
    return kept
