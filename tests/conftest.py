"""What every test gets: a home of its own, no keys, no network beyond loopback."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from nightlab.evals.task import SHIPPED

KEYS = ("OPENAI_API_KEY", "OPENAI_BASE_URL", "NIGHTLAB_MODEL", "NIGHTLAB_DATABASE_URL")

TINY = """
name = "tiny"
title = "the byte-level task, cut down for tests"
metric = "val_bpb"
direction = "lower"
editable = ["program.py"]
max_context = 512

[metrics]
val_bpb = "lower"
params = "lower"
peak_memory_mb = "lower"

[data]
packages = ["email", "asyncio", "unittest", "xml"]
train_bytes = 1_000_000
search_bytes = 8_192
holdout_bytes = 8_192

[[rungs]]
name = "small"
cpu_seconds = 0.4

[[rungs]]
name = "full"
cpu_seconds = 1.5

[limits]
memory_mb = 4096
weights_mb = 64
"""


@pytest.fixture(autouse=True)
def _own_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NIGHTLAB_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def _loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any connection that leaves this machine fails the test that made it."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        internet = self.family in (socket.AF_INET, socket.AF_INET6)
        if internet and not str(address[0]).startswith(("127.", "::1", "localhost")):
            pytest.fail(f"a test tried to reach {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(scope="session")
def tiny_task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the byte-level task, cut down so that a trial takes about a second."""
    folder = tmp_path_factory.mktemp("tasks") / "tiny"
    folder.mkdir()
    (folder / "task.toml").write_text(TINY)
    (folder / "program.py").write_text((SHIPPED / "byte_lm" / "program.py").read_text())
    return folder


@pytest.fixture(scope="session")
def in_ci() -> bool:
    """Where a missing engine is a failure and not a skip."""
    return os.environ.get("CI") == "true"
