"""The ``process`` tier: isolates nothing.

Same user, same files. It runs only programs made purely of catalogue operators (our own code);
the caller refuses anything else unless the person said ``--unsafe``. What it does give: a private
output folder, a process tree that is killed whole, limits on CPU, wall clock, memory, processes
and output, an environment without our variables, and on Linux no sockets but local ones.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from nightlab.errors import SandboxError
from nightlab.sandbox import cgroup, leftovers
from nightlab.sandbox.cell import LiveCell
from nightlab.sandbox.channel import SocketChannel
from nightlab.sandbox.guest.seal import Seal
from nightlab.sandbox.meter import TreeMeter
from nightlab.sandbox.protocol import Room
from nightlab.sandbox.tree import Tree
from nightlab.vocabulary import Tier

KEPT_VARIABLES = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH")
WORKER = "nightlab.sandbox.guest.worker"
START_SECONDS = 120.0
TEMPORARY_BYTES = 512 << 20


def thread_variables(threads: int) -> dict[str, str]:
    """What keeps numeric libraries to so many threads."""
    count = str(threads)
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NIGHTLAB_THREADS")
    return {**dict.fromkeys(names, count), "PYTHONDONTWRITEBYTECODE": "1"}


class ProcessSandbox:
    """Forks warm workers from one server that has imported torch."""

    tier = Tier.PROCESS

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._server: subprocess.Popen[bytes] | None = None
        self._home = leftovers.make_home("process")
        self._place = cgroup.find()

    def open(self, room: Room) -> LiveCell:
        started = time.monotonic()
        path = self._serve(room.threads)
        folder = Path(tempfile.mkdtemp(prefix="cell-", dir=self._home))
        for name in ("out", "tmp"):
            (folder / name).mkdir()
        try:
            return self._connect(room, path, folder, started)
        except (OSError, psutil.Error) as error:
            shutil.rmtree(folder, ignore_errors=True)
            with self._lock:
                self._stop()
            raise SandboxError(f"the process sandbox's server does not answer: {error}") from error

    def _connect(self, room: Room, path: str, folder: Path, started: float) -> LiveCell:
        stream = socket.socket(socket.AF_UNIX)
        stream.settimeout(START_SECONDS)
        stream.connect(path)
        reading, writing = os.pipe()
        with os.fdopen(writing, "wb"):
            seal = Seal(file_bytes=max(room.output_bytes, TEMPORARY_BYTES))
            settings: dict[str, Any] = {"tmp": str(folder / "tmp"), "threads": room.threads}
            text = json.dumps({**settings, "seal": vars(seal)})
            socket.send_fds(stream, [text.encode()], [writing])
        root = int.from_bytes(stream.recv(4, socket.MSG_WAITALL), "big")
        if root <= 1:  # a server that died; a group would take a 0 for ourselves
            raise ConnectionError("it closed the connection")
        group = self._group(room)
        if group is not None:
            group.add(root)
        body = Tree(root, folder, group)
        stream.sendall(b"!")
        paths = (str(room.data or ""), str(folder / "out"))
        cell = LiveCell(self.tier, room, SocketChannel(stream, reading), body, paths)
        cell.greet(started, START_SECONDS)
        return cell

    def _group(self, room: Room) -> cgroup.Cgroup | None:
        if self._place is None:
            return None
        return cgroup.Cgroup(
            self._place,
            memory_bytes=room.memory_bytes,
            processes=room.processes,
            cores=room.threads,
        )

    def close(self) -> None:
        with self._lock:
            self._stop()
        shutil.rmtree(self._home, ignore_errors=True)

    def _stop(self) -> None:
        if self._server is not None:
            with contextlib.suppress(psutil.Error):
                TreeMeter(psutil.Process(self._server.pid)).kill()
            self._server.wait()
            for pipe in (self._server.stdin, self._server.stdout):
                if pipe is not None:
                    pipe.close()
        self._server = None

    def _serve(self, threads: int) -> str:
        """Start the fork server if none is running; returns its socket's path."""
        path = str(self._home / "socket")
        with self._lock:
            if self._server is not None and self._server.poll() is None:
                return path
            self._stop()
            Path(path).unlink(missing_ok=True)
            kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
            with (self._home / "server.log").open("ab") as log:
                self._server = subprocess.Popen(
                    [sys.executable, "-m", WORKER, "--listen", path],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env={**kept, **thread_variables(threads), "HOME": str(self._home)},
                    start_new_session=True,
                    cwd=self._home,
                )
            if self._server.stdout is None or not self._server.stdout.readline():
                tail = (self._home / "server.log").read_text(errors="replace")[-2000:]
                raise SandboxError(f"the process sandbox did not start:\n{tail}")
        return path
