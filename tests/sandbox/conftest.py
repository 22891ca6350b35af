"""Tiers under test. With CI=true a tier that is not ready is a failure, elsewhere a skip.

A test that takes ``bench`` or ``tier`` runs once on every tier.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nightlab.errors import MissingError
from nightlab.sandbox import leftovers
from nightlab.sandbox.choose import choose, ready
from nightlab.sandbox.docker import Engine
from nightlab.sandbox.selftest import Bench
from nightlab.sandbox.warm import WarmSandbox
from nightlab.sandbox_commands import judge
from nightlab.vocabulary import Tier

TIERS = [
    pytest.param(Tier.PROCESS, id="process"),
    pytest.param(Tier.BWRAP, id="bwrap", marks=pytest.mark.bwrap),
    pytest.param(Tier.DOCKER, id="docker", marks=pytest.mark.docker),
]


@pytest.fixture(autouse=True)
def _outputs_go_with_their_test() -> Iterator[None]:
    """A test may look at what a run left; nobody else does."""
    yield
    for folder in Path(tempfile.gettempdir()).glob(f"{leftovers.stem('outputs')}*"):
        shutil.rmtree(folder)


def require(tier: Tier) -> Tier:
    """Skip the test where the tier is not ready, and fail it in CI."""
    works, reason = ready(tier)
    if not works and os.environ.get("CI") == "true":
        pytest.fail(f"{tier} must be ready in CI: {reason}")
    if not works:
        pytest.skip(f"{tier}: {reason}")
    return tier


@pytest.fixture(scope="session", params=TIERS)
def tier(request: pytest.FixtureRequest) -> Tier:
    """Each tier in turn."""
    chosen: Tier = request.param
    return require(chosen)


@pytest.fixture(scope="module")
def bench(tier: Tier) -> Iterator[Bench]:
    """A warm tier with an honest program's data and weights."""
    sandbox = choose(tier).sandbox
    ready_bench = Bench(sandbox, judge)
    if tier is not Tier.PROCESS:
        rooms = [ready_bench.room(), ready_bench.room()]
        ready_bench.sandbox = WarmSandbox(sandbox, rooms, openers=2)
    yield ready_bench
    ready_bench.close()


class PrivateEngine:
    """The engine in use, where it is one that a test may stop and start."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pid = int((folder / "pid").read_text())
        self.line = Path(f"/proc/{self.pid}/cmdline").read_bytes().split(b"\0")[:-1]

    def stop(self) -> None:
        """Ask it to end, and with it all its containers."""
        os.kill(self.pid, signal.SIGTERM)

    def start(self) -> None:
        """Start it again once the old one is gone, and wait until it answers."""
        wait(self._gone)
        with (self.folder / "log").open("ab") as log:
            line = [b"setsid", b"--fork", *self.line]
            subprocess.run(line, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True)
        wait(_answers)

    def _gone(self) -> bool:
        stat = Path(f"/proc/{self.pid}/stat")
        return not stat.exists() or ") Z " in stat.read_text()


def _answers() -> bool:
    try:
        Engine().close()
    except MissingError:
        return False
    return True


def wait(until: Callable[[], bool]) -> None:
    """Until it is so; a minute is too long."""
    deadline = time.monotonic() + 60
    while not until():
        assert time.monotonic() < deadline, "it took more than a minute"
        time.sleep(0.05)


@pytest.fixture
def engine_switch() -> tuple[Callable[[], None], Callable[[], None]]:
    """What stops and what starts the engine in use; skips where it is not a test's to restart."""
    folder = Path(os.environ.get("DOCKER_HOST", "").removeprefix("unix://")).parent
    if not (folder / "pid").is_file():
        pytest.skip("the engine in use is not a private one that a test may restart")
    engine = PrivateEngine(folder)
    return engine.stop, engine.start


@pytest.fixture
def docker_tier() -> Tier:
    return require(Tier.DOCKER)


@pytest.fixture
def bwrap_tier() -> Tier:
    return require(Tier.BWRAP)
