"""``nightlab bench null --real`` and ``bench known --real``: planted edits through the real loop.

Nothing of the loop is replaced but who proposes: decisions, vetting, training, early abort, the
sequential test and the hold-out are a campaign's own, and its ledger is kept as evidence.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from nightlab.agents import judge, start
from nightlab.agents.bench_planted.edits import Kind, Planted
from nightlab.agents.campaign import Supervisor
from nightlab.agents.lab import Lab
from nightlab.agents.nodes import Nodes
from nightlab.agents.policy.interface import Choice, Context, Decision, Head, Record, Update
from nightlab.agents.propose import Proposal, changed_lines
from nightlab.agents.round import Round
from nightlab.agents.start import Order
from nightlab.evals.task import load
from nightlab.memory.ledger import Ledger
from nightlab.memory.records import Experiment
from nightlab.sandbox.choose import choose
from nightlab.vocabulary import Budget, Objective, Verdict

Say = Callable[[str], None]
TRIALS_AN_EDIT = 3
SPARE_TRIALS = 40
"""Beside the edits' own: noise floor, confirmations and the closing comparison."""


class OfTheBaseline:
    """A policy that always builds on the baseline; what is built is planted."""

    def choose(self, context: Context, rng: np.random.Generator) -> Decision:
        """The only decision there is."""
        del rng
        archive = context.archive
        options = {Head.PARENT: archive.attempts[0].id, Head.AUTHOR: "catalogue"}
        choices = [
            Choice(head=head, options=(one,), mask=(True,), mu=(1.0,), index=0)
            for head, one in {**options, Head.BOLDNESS: "1"}.items()
        ]
        return Decision(
            id=context.id,
            campaign=context.campaign,
            choices=tuple(choices),
            edits=(),
            policy="planted",
            version="1",
            catalogue=archive.menu.version,
            proposer="",
            seed="",
            time=len(archive),
        )

    def learn(self, records: Sequence[Record], rng: np.random.Generator) -> Update:
        """Nothing."""
        del records, rng
        return Update(adopted=False, version="1", reason="nothing to learn")

    def save(self, folder: Path) -> None:
        """Nothing."""
        del folder


@dataclass
class PlantedNodes(Nodes):
    """The graph's nodes, with the n-th planted program as the n-th experiment."""

    planted: Sequence[Planted] = ()
    say: Say = print

    def propose(self, state: Round) -> Round:
        """Hand out the planted program."""
        experiment = state["experiment"]
        number = self.lab.ledger.experiment(experiment).number
        one = self.planted[number - 1]
        self.say(f"edit {number} of {len(self.planted)}: {one.name}")
        decision = self.decider.decide(experiment)
        added, removed = changed_lines(self.lab.program_of(decision.parent), one.program)
        return self._store(
            experiment,
            decision,
            Proposal(
                program=one.program,
                operator=f"planted:{one.kind}",
                part="planted",
                hypothesis=f"a {one.kind} edit",
                edits=(one.name,),
                lines_added=added,
                lines_removed=removed,
            ),
        )


@dataclass(frozen=True)
class Played:
    """One campaign of planted edits, over."""

    campaign: str
    rows: tuple[Mapping[str, object], ...]
    """One per edit."""
    paired_sd: float
    """Of the screening rung, metric's unit."""
    seconds: float
    trials: int


def play(
    planted: Sequence[Planted],
    *,
    task: str,
    tier: str,
    home: Path,
    folder: Path,
    seed: int,
    workers: int,
    say: Say,
) -> Played:
    """Run one campaign to its end; its ledger and files stay in ``folder``.

    ``home`` holds the corpus. Raises NightlabError where our side fails.
    """
    chosen = load(task)
    budget = Budget(trials=TRIALS_AN_EDIT * len(planted) + SPARE_TRIALS)
    objective = Objective(metric=chosen.metric, direction=chosen.direction, budget=budget)
    order = Order(
        goal=f"benchmark: {len(planted)} planted edits",
        objective=objective,
        task=task,
        workers=workers,
        seed=seed,
    )
    folder.mkdir(parents=True, exist_ok=True)
    choice, started = choose(tier), time.monotonic()
    try:
        with Ledger.open(f"sqlite:///{folder}/ledger.db", folder / "artifacts") as ledger:
            supervisor = start.begin(order, ledger, choice.sandbox, home)
            supervisor.checkpoints = folder / "checkpoints.db"
            supervisor.policy = OfTheBaseline()
            supervisor.most_experiments = len(planted)
            supervisor.make_nodes = partial(PlantedNodes, planted=planted, say=say)
            _run(supervisor)
            return _played(supervisor.lab, planted, time.monotonic() - started)
    finally:
        choice.sandbox.close()


def _run(supervisor: Supervisor) -> None:
    try:
        supervisor.run()
    finally:
        supervisor.lab.ledger.release_lease(supervisor.lab.lease)


def _played(lab: Lab, planted: Sequence[Planted], seconds: float) -> Played:
    found = [e for e in lab.ledger.experiments(lab.campaign.id) if e.number > 0]
    floor = judge.noise_floor(lab, lab.plan.screen)
    rows = [_row(lab, planted[e.number - 1], e, floor.paired_sd) for e in found]
    return Played(
        campaign=lab.campaign.id,
        rows=tuple(rows),
        paired_sd=floor.paired_sd,
        seconds=seconds,
        trials=lab.ledger.spent(lab.campaign.id).trials,
    )


def _row(lab: Lab, one: Planted, experiment: Experiment, sd: float) -> Mapping[str, object]:
    trials = [t for t in lab.ledger.trials(experiment=experiment.id) if t.run is not None]
    first = judge.screening_gain(lab, experiment.id, experiment.estimate.against or lab.baseline)
    estimate = experiment.estimate
    return {
        "experiment": experiment.id,
        "edit": one.name,
        "known": str(one.kind),
        "verdict": str(experiment.verdict),
        "screen_gain_sigmas": None if first is None else first / sd,
        "gain": estimate.gain,
        "gain_low": estimate.gain_low,
        "gain_high": estimate.gain_high,
        "pairs": estimate.pairs,
        "trials": len(trials),
        "cpu_seconds": sum(t.run.cpu_seconds for t in trials if t.run),
        "reason": experiment.reason,
    }


def confirmed(rows: Sequence[Mapping[str, object]], kind: Kind) -> int:
    """How many edits of a kind were confirmed."""
    return sum(r["verdict"] == Verdict.CONFIRMED and r["known"] == kind for r in rows)
