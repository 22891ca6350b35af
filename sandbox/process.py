"""The ``process`` tier: isolates nothing.

Same user, same files, same network. It runs only programs made purely of catalogue operators
(our own code); the caller refuses anything else unless the person said ``--unsafe``. What it does
give: a private output folder, a process group that is killed whole, limits on CPU, wall clock,
memory, processes and output, and an environment without our variables.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from nightlab.errors import SandboxError
from nightlab.sandbox.protocol import Room
from nightlab.sandbox.tree import TreeCell, kill_session
from nightlab.vocabulary import Tier

KEPT_VARIABLES = ("PATH", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH")
WORKER = "nightlab.sandbox.guest.worker"


def clean_environment(threads: int) -> dict[str, str]:
    """The few variables a worker needs; no key, no token, nothing of the person's."""
    kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    count = str(threads)
    limits = {"OMP_NUM_THREADS": count, "OPENBLAS_NUM_THREADS": count, "MKL_NUM_THREADS": count}
    return {**kept, **limits, "NIGHTLAB_THREADS": count, "PYTHONDONTWRITEBYTECODE": "1"}


class ProcessSandbox:
    """Forks warm workers from one server that has imported torch."""

    tier = Tier.PROCESS

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._server: subprocess.Popen[bytes] | None = None
        self._home = Path(tempfile.mkdtemp(prefix="nightlab-process-"))

    def open(self, room: Room) -> TreeCell:
        started = time.monotonic()
        path = self._serve(room.threads)
        folder = Path(tempfile.mkdtemp(prefix="cell-", dir=self._home))
        (folder / "out").mkdir()
        (folder / "log").touch()
        channel = socket.socket(socket.AF_UNIX)
        channel.connect(path)
        log = os.fsencode(folder / "log")
        channel.sendall(len(log).to_bytes(2, "big") + log)
        paths = (str(room.data or ""), str(folder / "out"))
        cell = TreeCell(self.tier, room, channel, folder, paths, kill_session)
        cell.greet(None, started)
        return cell

    def close(self) -> None:
        if self._server is not None:
            kill_session(self._server.pid)
            self._server.wait()
        shutil.rmtree(self._home, ignore_errors=True)

    def _serve(self, threads: int) -> str:
        """Start the fork server if none is running; returns its socket's path."""
        path = str(self._home / "socket")
        with self._lock:
            if self._server is not None and self._server.poll() is None:
                return path
            Path(path).unlink(missing_ok=True)
            with (self._home / "server.log").open("ab") as log:
                self._server = subprocess.Popen(
                    [sys.executable, "-m", WORKER, "--listen", path],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env=clean_environment(threads),
                    start_new_session=True,
                    cwd=self._home,
                )
            if self._server.stdout is None or not self._server.stdout.readline():
                tail = (self._home / "server.log").read_text()[-2000:]
                raise SandboxError(f"the process sandbox did not start:\n{tail}")
        return path
