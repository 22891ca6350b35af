"""Campaigns without a sandbox: a policy decides, a made-up function scores, a ledger stores."""

from collections.abc import Sequence
from datetime import timedelta

import numpy as np

from nightlab.agents.decide import to_rows
from nightlab.agents.policy.interface import Archive, Attempt, Context, Menu, Outcome, Part, Policy
from nightlab.memory.example import Clock
from nightlab.memory.ledger import Ledger
from nightlab.memory.records import CampaignStatus, Lease
from nightlab.vocabulary import (
    Budget,
    Direction,
    Ending,
    Measurement,
    Objective,
    Program,
    Purpose,
    Run,
    Tier,
    Verdict,
)

MENU = Menu(
    parts=(
        Part("norm", ("a", "b", "c")),
        Part("position", ("a", "b", "c", "d")),
        Part("rate", ("1", "2", "3", "4", "5"), ordered=True),
    ),
    boldness=("1", "2"),
    version="made-up",
)
WORTH = {"position": {"c": 0.5, "d": -0.3}, "norm": {"b": 0.1}, "rate": {"3": 0.2, "5": -0.5}}
"""What a variant takes off 4 bits per byte."""
SEEDS = (1, 2, 3, 4)


def score(genes: dict[str, str]) -> float:
    """Bits per byte of a program, without noise."""
    return 4.0 - sum(WORTH.get(part, {}).get(variant, 0.0) for part, variant in genes.items())


class Player:
    """Plays campaigns into a ledger."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self.ledger, self.clock = ledger, clock

    def play(
        self,
        policy: Policy,
        experiments: int,
        seed: int,
        task: str = "made-up",
        began: str = "cold",
    ) -> str:
        """One campaign to its end; its id."""
        rng = np.random.default_rng(seed)
        lease = self._begin(task, seed, began)
        start = {part.name: part.variants[0] for part in MENU.parts}
        base = self._experiment(lease, start, None)
        for one in SEEDS:
            self._trial(lease, base, start, one, Purpose.NOISE, rng)
        self.ledger.conclude_experiment(lease, base, Verdict.CONFIRMED, "the baseline")
        archive = Archive(MENU)
        archive.record(
            Attempt(id=base, program=str(start), genes=start, outcome=Outcome.VALID, reward=0.0)
        )
        for _ in range(experiments):
            self._attempt(lease, archive, policy, rng)
        self.ledger.finish_campaign(lease, CampaignStatus.FINISHED, "played")
        self.ledger.release_lease(lease)
        self.clock.at += timedelta(minutes=1)
        return lease.campaign

    def _begin(self, task: str, seed: int, began: str) -> Lease:
        campaign = self.ledger.create_campaign(
            "lower val_bpb",
            Objective(metric="val_bpb", direction=Direction.LOWER, budget=Budget(trials=99)),
            task=task,
            tier=Tier.PROCESS,
            proposer="catalogue",
            seed=seed,
            workers=1,
            settings={"screen": "small", "confirm": "full", "policy": began},
        )
        return self.ledger.acquire_lease(campaign.id, "test:1", seconds=1e6)

    def _attempt(
        self, lease: Lease, archive: Archive, policy: Policy, rng: np.random.Generator
    ) -> None:
        name = self.ledger.begin_experiment(lease).id
        context = Context(campaign=lease.campaign, id=name, archive=archive, budget_left=0.5)
        decision = policy.choose(context, rng)
        self.ledger.record_decisions(name, to_rows(decision))
        parent = archive.attempts[archive.row[decision.parent]]
        genes = {**parent.genes, **dict(decision.edits)}
        self._experiment(lease, genes, decision.parent, name, decision.edits)
        value = self._trial(lease, name, genes, SEEDS[0], Purpose.SCREEN, rng)
        self.ledger.conclude_experiment(lease, name, Verdict.DISCARDED, "no better")
        archive.record(
            Attempt(
                id=name,
                program=str(genes),
                parent=decision.parent,
                genes=genes,
                author=decision.author,
                part=decision.part,
                variant=decision.variant,
                outcome=Outcome.VALID,
                reward=4.0 - value,
            )
        )

    def _experiment(
        self,
        lease: Lease,
        genes: dict[str, str],
        parent: str | None,
        name: str = "",
        edits: Sequence[tuple[str, str]] = (),
    ) -> str:
        name = name or self.ledger.begin_experiment(lease).id
        program = Program({"model.py": f"genes = {genes}\n"})
        self.ledger.put_program(program, tree_hash=f"t{program.id}", origin="catalogue")
        self.ledger.set_proposal(
            name,
            program=program.id,
            parent=parent,
            author="catalogue",
            edits=[f"{part}={variant}" for part, variant in edits],
        )
        return name

    def _trial(
        self,
        lease: Lease,
        name: str,
        genes: dict[str, str],
        seed: int,
        purpose: Purpose,
        rng: np.random.Generator,
    ) -> float:
        program = Program({"model.py": f"genes = {genes}\n"}).id
        value = score(genes) + 0.01 * float(rng.standard_normal())
        trial = self.ledger.begin_trial(
            lease, name, program, rung="small", seed=seed, purpose=purpose
        )
        run = Run(ending=Ending.FINISHED, tier=Tier.PROCESS, wall_seconds=1.0, cpu_seconds=1.0)
        self.ledger.finish_trial(
            trial, run, Measurement(metrics={"val_bpb": value}), total_seconds=1.0
        )
        self.clock.pass_seconds(1.0)
        return value
