"""Whole campaigns in real sandboxes on a cut-down task: what they leave in the ledger."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from nightlab.agents import past, start
from nightlab.agents.campaign import Supervisor, baseline
from nightlab.agents.decide import Decider, from_rows, menu
from nightlab.agents.policy.interface import (
    Choice,
    Context,
    Decision,
    Head,
    Memory,
    Record,
    Update,
)
from nightlab.agents.start import Order
from nightlab.errors import UsageError
from nightlab.memory.ledger import Ledger
from nightlab.memory.records import CampaignStatus, TrialStatus
from nightlab.memory.report.summary import summarise
from nightlab.sandbox.process import ProcessSandbox
from nightlab.vocabulary import Budget, Direction, Objective, Purpose, Verdict

pytestmark = pytest.mark.slow


def order(task: Path, trials: int, seed: int = 1) -> Order:
    objective = Objective(metric="val_bpb", direction=Direction.LOWER, budget=Budget(trials=trials))
    return Order(goal="lower val_bpb", objective=objective, task=str(task), seed=seed)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(f"sqlite:///{tmp_path}/ledger.db", tmp_path / "artifacts") as opened:
        yield opened


@pytest.fixture(scope="module")
def sandbox() -> Iterator[ProcessSandbox]:
    opened = ProcessSandbox()
    yield opened
    opened.close()


class Scripted:
    """A policy that knows what it wants: these edits of the incumbent, one set after another."""

    def __init__(self, *scripts: dict[str, str]) -> None:
        self.scripts = list(scripts)

    def choose(self, context: Context, rng: np.random.Generator) -> Decision:
        del rng
        archive = context.archive
        best = max(archive.valid_rows(), key=lambda row: archive.attempts[row].reward or 0.0)
        parent = archive.attempts[best].id
        edits = self.scripts[(len(archive) - 1) % len(self.scripts)]
        heads = {Head.PARENT: parent, Head.AUTHOR: "catalogue", Head.BOLDNESS: str(len(edits))}
        choices = [_sure(head, option) for head, option in heads.items()]
        return Decision(
            id=context.id,
            campaign=context.campaign,
            choices=tuple(choices),
            edits=tuple(edits.items()),
            policy="scripted",
            version="1",
            catalogue=archive.menu.version,
            proposer="",
            seed="",
            time=len(archive),
        )

    def learn(self, records: Sequence[Record], rng: np.random.Generator) -> Update:
        del records, rng
        return Update(adopted=False, version="1", reason="nothing to learn")

    def save(self, folder: Path) -> None:
        del folder


def _sure(head: Head, option: str) -> Choice:
    return Choice(head=head, options=(option,), mask=(True,), mu=(1.0,), index=0)


GOOD = {"learning_rate": "1.2e-2", "batch": "8"}
BAD = {"learning_rate": "3e-4"}
AGAIN = {"norm": "rms_norm"}


@pytest.fixture(scope="module")
def finished(
    tiny_task: Path, tmp_path_factory: pytest.TempPathFactory, sandbox: ProcessSandbox
) -> Iterator[tuple[Ledger, Supervisor]]:
    """One campaign of at most 40 trials, run to its end."""
    home = tmp_path_factory.mktemp("home")
    with Ledger.open(f"sqlite:///{home}/ledger.db", home / "artifacts") as opened:
        supervisor = start.begin(order(tiny_task, 40), opened, sandbox, home)
        supervisor.policy = Scripted(BAD, GOOD, BAD, AGAIN)
        assert supervisor.run() is CampaignStatus.FINISHED
        yield opened, supervisor


def test_the_next_campaign_on_the_task_begins_with_what_was_measured(
    finished: tuple[Ledger, Supervisor], tiny_task: Path, sandbox: ProcessSandbox, tmp_path: Path
) -> None:
    ledger, _ = finished
    second = start.begin(order(tiny_task, 18, seed=2), ledger, sandbox, tmp_path)
    assert second.run() is CampaignStatus.FINISHED
    said = [event.message for event in ledger.events(second.lab.campaign.id)]
    assert any(text.startswith("remembers ") for text in said)
    memory = Memory(past.remembered(ledger, second.lab.campaign))
    helped, _ = memory.variants("batch", ["8"])
    hurt, _ = memory.variants("learning_rate", ["3e-4"])
    assert helped[0] > 0 > hurt[0]


def test_it_stays_within_its_budget_of_trials(finished: tuple[Ledger, Supervisor]) -> None:
    ledger, supervisor = finished
    assert 16 <= ledger.spent(supervisor.lab.campaign.id).trials <= 40


def test_it_gives_up_when_nothing_new_is_proposed(finished: tuple[Ledger, Supervisor]) -> None:
    ledger, supervisor = finished
    assert "invalid" in ledger.campaign(supervisor.lab.campaign.id).reason
    reasons = {e.reason for e in ledger.experiments(supervisor.lab.campaign.id)}
    assert any("the same program as" in reason for reason in reasons)


def test_every_experiment_has_a_verdict_and_a_complete_decision(
    finished: tuple[Ledger, Supervisor],
) -> None:
    ledger, supervisor = finished
    experiments = ledger.experiments(supervisor.lab.campaign.id)
    assert len(experiments) > 4
    for experiment in experiments[1:]:
        assert experiment.verdict is not None
        decision = from_rows(ledger.decisions(experiment.id))
        assert 0 < decision.propensity <= 1
        assert decision.id == experiment.id
        for choice in decision.choices:
            assert sum(choice.mu) == pytest.approx(1)


def test_a_better_program_is_found_and_confirmed_on_fresh_seeds(
    finished: tuple[Ledger, Supervisor],
) -> None:
    ledger, supervisor = finished
    campaign = supervisor.lab.campaign.id
    confirmed = [e for e in ledger.experiments(campaign)[1:] if e.verdict is Verdict.CONFIRMED]
    assert confirmed
    for experiment in confirmed:
        assert experiment.estimate.gain_low is not None
        assert experiment.estimate.gain_low > 0
        assert experiment.estimate.holdout_gain is not None
        assert experiment.estimate.holdout_gain > 0
        trials = ledger.trials(experiment=experiment.id)
        screened = {t.seed for t in trials if t.purpose is Purpose.SCREEN}
        fresh = {t.seed for t in trials if t.purpose is Purpose.CONFIRM}
        assert not screened & fresh
    best = summarise(ledger, campaign).best
    assert best is not None
    assert best.gain_percent is not None
    assert best.gain_percent.value > 1
    assert best.pairs >= 3


def test_no_trial_is_doubled_and_none_is_left_open(finished: tuple[Ledger, Supervisor]) -> None:
    ledger, supervisor = finished
    trials = ledger.trials(campaign=supervisor.lab.campaign.id)
    assert all(t.status is TrialStatus.FINISHED for t in trials)
    keys = Counter((t.experiment, t.rung, t.seed, t.purpose, t.arm) for t in trials)
    assert set(keys.values()) == {1}


def test_the_same_seed_makes_the_same_decision(
    sandbox: ProcessSandbox, tmp_path: Path, tiny_task: Path
) -> None:
    decided = []
    for name in ("one", "two"):
        home = tmp_path / name
        with Ledger.open(f"sqlite:///{home}/ledger.db", home / "artifacts") as ledger:
            supervisor = start.begin(order(tiny_task, 45, seed=9), ledger, sandbox, tmp_path)
            lab = supervisor.lab
            baseline(lab)
            experiment = ledger.begin_experiment(lab.lease).id
            decider = Decider(lab, supervisor.policy, menu(("catalogue",)))
            decided.append(decider.decide(experiment).edits)
            assert decider.decide(experiment).edits == decided[-1]
    assert decided[0] == decided[1]


def test_a_second_supervisor_is_refused_while_the_first_holds_the_campaign(
    tiny_task: Path, ledger: Ledger, sandbox: ProcessSandbox, tmp_path: Path
) -> None:
    supervisor = start.begin(order(tiny_task, 45), ledger, sandbox, tmp_path)
    with pytest.raises(UsageError, match="held by"):
        start.resume(supervisor.lab.campaign.id, ledger, sandbox, tmp_path)


def test_a_stop_drains_and_resume_goes_on_to_the_end(
    tiny_task: Path, ledger: Ledger, sandbox: ProcessSandbox, tmp_path: Path
) -> None:
    supervisor = start.begin(order(tiny_task, 26), ledger, sandbox, tmp_path)
    campaign = supervisor.lab.campaign.id
    stop_when(supervisor, lambda: len(ledger.experiments(campaign)) > 2)
    assert supervisor.run() is CampaignStatus.STOPPED
    ledger.release_lease(supervisor.lab.lease)
    again = start.resume(campaign, ledger, sandbox, tmp_path)
    assert again.run() is CampaignStatus.FINISHED
    trials = ledger.trials(campaign=campaign)
    assert all(t.attempt == 1 for t in trials)
    assert not ledger.experiments(campaign, under_way=True)


def stop_when(supervisor: Supervisor, reached: Callable[[], bool]) -> None:
    """Stop a campaign from another thread as soon as its ledger shows something."""

    def watch() -> None:
        while not reached():
            time.sleep(0.05)
        supervisor.stop("the test")

    threading.Thread(target=watch, daemon=True).start()


SCRIPT = """
import sys
from pathlib import Path
from nightlab.agents import start
from nightlab.agents.start import Order
from nightlab.memory.ledger import Ledger
from nightlab.sandbox.process import ProcessSandbox
from nightlab.vocabulary import Budget, Direction, Objective

home, task = Path(sys.argv[1]), sys.argv[2]
ledger = Ledger.open(f"sqlite:///{home}/ledger.db", home / "artifacts")
objective = Objective(metric="val_bpb", direction=Direction.LOWER, budget=Budget(trials=26))
order = Order(goal="lower val_bpb", objective=objective, task=task, seed=3)
start.begin(order, ledger, ProcessSandbox(), home).run()
"""


def test_a_killed_supervisor_loses_and_doubles_nothing(
    tiny_task: Path, sandbox: ProcessSandbox, tmp_path: Path
) -> None:
    victim = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path), str(tiny_task)], start_new_session=True
    )
    try:
        with Ledger.open(f"sqlite:///{tmp_path}/ledger.db", tmp_path / "artifacts") as ledger:
            wait_for(lambda: bool(ledger.campaigns()))
            wait_for(lambda: len(ledger.experiments("c1")) > 3)
            before = {t.id: t for t in ledger.trials(campaign="c1") if t.run is not None}
            os.kill(victim.pid, signal.SIGKILL)
            victim.wait()
            supervisor = start.resume("c1", ledger, sandbox, tmp_path)
            assert supervisor.run() is CampaignStatus.FINISHED
            after = {t.id: t for t in ledger.trials(campaign="c1")}
            for name, trial in before.items():
                assert after[name].run == trial.run
            assert all(t.status is TrialStatus.FINISHED for t in after.values())
            assert not ledger.experiments("c1", under_way=True)
            numbers = [e.number for e in ledger.experiments("c1")]
            assert numbers == list(range(len(numbers)))
    finally:
        if victim.poll() is None:
            victim.kill()


def wait_for(reached: Callable[[], bool], seconds: float = 120) -> None:
    """Poll until something holds; fails when it does not in time."""
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)
