"""A policy running a campaign on a table: the loop's steps without training anything."""

from collections.abc import Callable

import numpy as np

from nightlab.agents.bench_search.arms import random_cell
from nightlab.agents.bench_search.objective import Cell, Objective
from nightlab.agents.policy.interface import (
    Archive,
    Attempt,
    Context,
    Decision,
    Menu,
    Outcome,
    Policy,
    Record,
)

STARTS = 8
"""Random programs that a campaign on a table starts from, paid from the budget."""


class Campaign:
    """Attempts, decisions and outcomes of one policy on one objective."""

    def __init__(
        self, name: str, objective: Objective, rng: np.random.Generator, starts: int = STARTS
    ) -> None:
        self.name = name
        self.objective = objective
        self.rng = rng
        self.menu = Menu(
            parts=objective.table.parts, boldness=("1", "2"), version=objective.table.name
        )
        self.archive = Archive(self.menu)
        self.records: list[Record] = []
        for start in range(starts):
            cell = random_cell(objective.shape, rng)
            attempt = Attempt(
                id=f"{name}:start{start}",
                program=str(cell),
                genes=self.genes(cell),
                outcome=Outcome.VALID,
                reward=objective.look(cell),
            )
            self.archive.record(attempt)

    def genes(self, cell: Cell) -> dict[str, str]:
        """The variant that each part holds."""
        return {
            part.name: part.variants[code] for part, code in zip(self.menu.parts, cell, strict=True)
        }

    def step(self, policy: Policy) -> Record:
        """Decide, look, record. Raises SpentError at the end of the budget."""
        context = Context(
            campaign=self.name,
            id=f"{self.name}:{len(self.archive)}",
            archive=self.archive,
            budget_left=self.objective.left,
        )
        decision = policy.choose(context, self.rng)
        cell = self.cell(decision)
        score = self.objective.look(cell)
        attempt = Attempt(
            id=decision.id,
            program=str(cell),
            parent=decision.parent,
            genes=self.genes(cell),
            author=decision.author,
            part=decision.part,
            variant=decision.variant,
            boldness=decision.boldness,
            rung=decision.rung,
            outcome=Outcome.VALID,
            reward=score,
        )
        self.archive.record(attempt)
        record = Record(decision=decision, outcome=Outcome.VALID, reward=score)
        self.records.append(record)
        return record

    def cell(self, decision: Decision) -> Cell:
        """The program that a decision leads to."""
        codes = list(self.archive.codes[self.archive.row[decision.parent]])
        for name, variant in decision.edits:
            for place, part in enumerate(self.menu.parts):
                if part.name == name:
                    codes[place] = part.variants.index(variant)
        return tuple(codes)


def run_policy(
    policy: Policy,
    objective: Objective,
    rng: np.random.Generator,
    name: str = "bench",
    after: Callable[[Campaign], None] | None = None,
) -> None:
    """One campaign until the objective's ``SpentError``; ``after`` is called after every step."""
    campaign = Campaign(name, objective, rng)
    while True:
        campaign.step(policy)
        if after is not None:
            after(campaign)
