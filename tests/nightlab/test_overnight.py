"""A night ends at its time of day, and a supervisor that is killed is followed by another."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightlab.agents import start
from nightlab.agents.start import Order
from nightlab.errors import UsageError
from nightlab.memory.ledger import Ledger
from nightlab.memory.records import CampaignStatus, TrialStatus
from nightlab.overnight import next_time
from nightlab.sandbox.process import ProcessSandbox
from nightlab.vocabulary import Budget, Direction, Objective

MOMENTS = st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1))


@given(MOMENTS, st.integers(0, 23), st.integers(0, 59))
def test_the_end_is_the_next_time_the_clock_shows_it(now: datetime, hour: int, minute: int) -> None:
    now = now.replace(tzinfo=UTC)
    end = next_time(f"{hour:02}:{minute:02}", now)
    assert (end.hour, end.minute) == (hour, minute)
    assert timedelta(0) < end - now <= timedelta(days=1)


@pytest.mark.parametrize("text", ["dawn", "7", "25:00", "07:60", ""])
def test_what_is_no_time_of_day_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="07:00"):
        next_time(text, datetime.now(UTC))


WATCH = """
import sys
from pathlib import Path
from nightlab.overnight import Night
Night(sys.argv[1], Path(sys.argv[2])).watch()
"""


@pytest.mark.slow
def test_a_killed_supervisor_is_followed_by_another(tiny_task: Path, tmp_path: Path) -> None:
    home = Path(os.environ["NIGHTLAB_HOME"])
    home.mkdir()
    objective = Objective(metric="val_bpb", direction=Direction.LOWER, budget=Budget(trials=26))
    order = Order(goal="lower val_bpb", objective=objective, task=str(tiny_task), seed=5)
    with Ledger.open(f"sqlite:///{home}/ledger.db", home / "artifacts") as ledger:
        sandbox = ProcessSandbox()
        supervisor = start.begin(order, ledger, sandbox, home)
        ledger.release_lease(supervisor.lab.lease)
        sandbox.close()
        night = subprocess.Popen([sys.executable, "-c", WATCH, "c1", str(tmp_path / "log")])
        try:
            until(lambda: len(ledger.experiments("c1")) > 2)
            (child,) = psutil.Process(night.pid).children()
            os.kill(child.pid, signal.SIGKILL)
            assert night.wait(timeout=300) == 0
        finally:
            night.kill()
        assert ledger.campaign("c1").status is CampaignStatus.FINISHED
        trials = ledger.trials(campaign="c1")
        assert all(t.status is TrialStatus.FINISHED for t in trials)


def until(reached: Callable[[], bool], seconds: float = 120) -> None:
    """Ask again and again; fails when it does not come about in time."""
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)
