"""Accidents in mid-campaign are recorded as the environment's, tried again, and never scored."""

import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from nightlab.agents import start
from nightlab.agents.campaign import baseline
from nightlab.agents.lab import Lab
from nightlab.agents.start import Order
from nightlab.errors import SandboxError
from nightlab.memory.ledger import Ledger
from nightlab.memory.records import TrialStatus
from nightlab.sandbox.choose import choose
from nightlab.sandbox.docker import Engine
from nightlab.vocabulary import Budget, Direction, Ending, Objective, Tier

pytestmark = pytest.mark.slow


@contextmanager
def campaign(task: Path, home: Path, tier: Tier) -> Iterator[Lab]:
    """One that has not measured its baseline yet; one trial at a time."""
    objective = Objective(metric="val_bpb", direction=Direction.LOWER, budget=Budget(trials=20))
    order = Order(goal="lower val_bpb", objective=objective, task=str(task), seed=1, workers=1)
    with ExitStack() as stack:
        ledger = Ledger.open(f"sqlite:///{home}/ledger.db", home / "artifacts")
        stack.enter_context(ledger)
        sandbox = choose(tier).sandbox
        supervisor = start.begin(order, ledger, sandbox, home)
        stack.callback(supervisor.lab.bench.sandbox.close)
        lab = supervisor.lab
        lab.plan = replace(lab.plan, noise_trials=3)
        yield lab


@contextmanager
def accident(lab: Lab, cause: Callable[[], None], until_lost: int = 1) -> Iterator[None]:
    """Cause it once a trial is done, and again until so many runs were lost."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.1):
            done = [t for t in trials(lab) if t is TrialStatus.FINISHED]
            if done and len(lab.ledger.faults(lab.campaign.id)) < until_lost:
                cause()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def trials(lab: Lab) -> list[TrialStatus]:
    return [trial.status for trial in lab.ledger.trials(campaign=lab.campaign.id)]


def check(lab: Lab, said: str) -> None:
    """Every trial was finished and measured, and what was lost on the way is on record."""
    faults = lab.ledger.faults(lab.campaign.id)
    assert faults
    assert {fault.ending for fault in faults} == {Ending.LOST}
    assert any(said in fault.reason for fault in faults)
    measured = [t.value("val_bpb") for t in lab.ledger.trials(campaign=lab.campaign.id)]
    assert len(measured) == len(lab.plan.rungs) * lab.plan.noise_trials
    assert None not in measured


def kill_containers() -> None:
    with closing(Engine()) as engine:
        for thing in engine.owned():
            ours = thing.labels["owner"].split(":")[1] == str(os.getpid())
            if ours and thing.kind == "container" and not thing.name.endswith("-holder"):
                try:
                    engine.kill(thing.name)
                except SandboxError:
                    continue  # it ended meanwhile


@pytest.mark.docker
def test_a_campaign_gets_over_killed_containers(
    docker_tier: Tier, tiny_task: Path, tmp_path: Path
) -> None:
    with campaign(tiny_task, tmp_path, docker_tier) as lab:
        with accident(lab, kill_containers):
            baseline(lab)
        check(lab, "from outside")


@pytest.mark.docker
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
# The client library leaves a socket open when it cannot connect.
def test_a_campaign_gets_over_a_restarted_engine(
    docker_tier: Tier,
    tiny_task: Path,
    tmp_path: Path,
    engine_switch: tuple[Callable[[], None], Callable[[], None]],
) -> None:
    stop, start_again = engine_switch
    once = threading.Event()

    def restart() -> None:
        if not once.is_set():
            once.set()
            stop()
            start_again()

    with campaign(tiny_task, tmp_path, docker_tier) as lab:
        with accident(lab, restart):
            baseline(lab)
        check(lab, "")


def test_a_campaign_gets_over_a_full_disk(
    tiny_task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    line = ["mount", "-t", "tmpfs", "-o", "size=16k", "none", str(small)]
    if subprocess.run(line, check=False).returncode:
        pytest.skip("only root can make a small disk")

    def fill() -> None:
        monkeypatch.setattr(tempfile, "tempdir", str(small))
        deadline = time.monotonic() + 30
        while not lab.ledger.faults(lab.campaign.id) and time.monotonic() < deadline:
            time.sleep(0.02)
        monkeypatch.setattr(tempfile, "tempdir", None)

    try:
        with campaign(tiny_task, tmp_path, Tier.PROCESS) as lab:
            with accident(lab, fill):
                baseline(lab)
            check(lab, "No space left")
    finally:
        subprocess.run(["umount", str(small)], check=True)
