"""What goes wrong around a program is the environment's fault: lost, and never scored."""

import gc
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from nightlab.errors import SandboxError
from nightlab.sandbox import leftovers as host
from nightlab.sandbox.abuse.case import HONEST, PRELUDE
from nightlab.sandbox.container import Container
from nightlab.sandbox.docker import DockerSandbox, Engine
from nightlab.sandbox.selftest import EXPECTED_FILES, HONEST_LIMITS, Bench, leftovers
from nightlab.sandbox_commands import judge
from nightlab.vocabulary import Ending, Tier

SUPERVISOR = """
import sys
from nightlab.sandbox.choose import choose
from nightlab.sandbox.selftest import HONEST_LIMITS, Bench
from nightlab.sandbox_commands import judge
from nightlab.sandbox.abuse.case import HONEST
bench = Bench(choose(sys.argv[1]).sandbox, judge)
cell = bench.sandbox.open(bench.room())
files = {"honest.py": HONEST, "program.py": sys.argv[2]}
cell.ask(bench.job(cell, files), HONEST_LIMITS, lambda point: None)
"""
STUBBORN = """
for _ in range(2):
    if os.fork() == 0:
        os.setsid()
        break
signal.signal(signal.SIGTERM, signal.SIG_IGN)
time.sleep(600)
"""


@pytest.mark.docker
def test_a_killed_container_is_lost(docker_tier: Tier) -> None:
    bench = Bench(DockerSandbox(docker_tier), judge)
    cell = bench.sandbox.open(bench.room())
    body = getattr(cell, "body", None)
    assert isinstance(body, Container)
    killer = threading.Timer(0.5, _kill, [body.name])
    killer.start()
    files = {"honest.py": HONEST, "program.py": "import time; time.sleep(60)"}
    assert cell.ask(bench.job(cell, files), HONEST_LIMITS) is None
    killer.join()
    run = cell.close(EXPECTED_FILES)
    bench.close()
    assert run.ending is Ending.LOST
    assert "from outside" in run.reason


def _kill(name: str) -> None:
    with closing(Engine()) as engine:
        engine.kill(name)


@pytest.mark.docker
def test_a_removed_container_is_lost(docker_tier: Tier) -> None:
    bench = Bench(DockerSandbox(docker_tier), judge)
    cell = bench.sandbox.open(bench.room())
    body = getattr(cell, "body", None)
    assert isinstance(body, Container)
    with closing(Engine()) as engine:
        engine.discard("container", body.name)
    assert cell.ask(bench.job(cell, {"program.py": HONEST}), HONEST_LIMITS) is None
    assert cell.close(EXPECTED_FILES).ending is Ending.LOST
    bench.close()


@pytest.mark.docker
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
# The client library leaves a socket open when it cannot connect.
def test_a_restarted_engine_loses_the_run_and_serves_the_next(
    docker_tier: Tier, engine_switch: tuple[Callable[[], None], Callable[[], None]]
) -> None:
    bench = Bench(DockerSandbox(docker_tier), judge)
    cell = bench.sandbox.open(bench.room())
    stop, start = engine_switch
    stop()
    try:
        files = {"honest.py": HONEST, "program.py": "import time; time.sleep(60)"}
        assert cell.ask(bench.job(cell, files), HONEST_LIMITS) is None
        first = cell.close(EXPECTED_FILES)
    finally:
        start()
    weights = bench.honest(bench.sandbox.open(bench.room()))
    bench.close()
    gc.collect()  # those sockets go now, and not in the middle of another test
    assert first.ending is Ending.LOST
    assert len(weights) > 1000


def _wait(until: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not until():
        assert time.monotonic() < deadline, "it took more than a minute"
        time.sleep(0.05)


def test_a_full_disk_is_lost_and_not_a_bad_output(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16k", "none", str(tmp_path)], check=False
    )
    if mounted.returncode:
        pytest.skip("only root can make a small disk")
    try:
        cell = bench.sandbox.open(bench.room())
        answer = cell.ask(bench.job(cell, {"program.py": HONEST}), HONEST_LIMITS)
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        run = cell.close(EXPECTED_FILES)
        monkeypatch.undo()
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
    assert answer is not None
    assert run.ending is Ending.LOST
    assert "No space left" in run.reason


def test_nothing_outlives_a_killed_supervisor(tier: Tier) -> None:
    mark = f"nl-{secrets.token_hex(5)}"
    text = PRELUDE.format(mark=mark, out="/nowhere") + STUBBORN
    line = [sys.executable, "-c", SUPERVISOR, str(tier), text]
    supervisor = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _wait(lambda: "left" in leftovers(mark))
    supervisor.kill()
    supervisor.wait()
    if tier is Tier.DOCKER:
        DockerSandbox(tier).close()  # the next supervisor sweeps when it starts
    _wait(lambda: leftovers(mark) == "")
    host.sweep_folders(Path(tempfile.gettempdir()))
    dead = host.stem("x").replace(f"-{os.getpid()}-", f"-{supervisor.pid}-").split("-x-")[1]
    assert [p.name for p in Path(tempfile.gettempdir()).iterdir() if dead in p.name] == []


@pytest.mark.docker
def test_data_that_nobody_can_read_is_our_fault(docker_tier: Tier) -> None:
    bench = Bench(DockerSandbox(docker_tier), judge)
    bench.data.chmod(0o700)
    with pytest.raises(SandboxError, match="readable"):
        bench.sandbox.open(bench.room())
    bench.close()
