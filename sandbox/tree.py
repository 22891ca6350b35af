"""A cell that is a process tree on this host: what the ``process`` and ``bwrap`` tiers share.

One thread does everything: while it waits for the guest it reads the tree's meters and ends the
cell when a limit is passed. Clocks and meters are the host's; nothing the guest says is used.
"""

import contextlib
import os
import select
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from nightlab.errors import SandboxError
from nightlab.sandbox import meter
from nightlab.sandbox.collect import collect
from nightlab.sandbox.guest.wire import Message, WireError, encode, receive
from nightlab.sandbox.protocol import Hear, Room, ignore
from nightlab.vocabulary import Ending, Limits, Run, Tier

TICK_SECONDS = 0.05
LOG_TAIL_BYTES = 16_384
MAX_ANSWER_BYTES = 512 << 20
START_SECONDS = 120.0


class _EndedError(Exception):
    """The cell is over, for this reason."""

    def __init__(self, ending: Ending, reason: str) -> None:
        super().__init__(reason)
        self.ending, self.reason = ending, reason


@dataclass
class _Spent:
    """What the cell has used since its first message was sent."""

    sent: float | None = None
    cpu_before: float = 0.0
    cpu: float = 0.0
    memory: int = 0


class TreeCell:
    """A worker behind a socket, in a process tree that can be metered and killed."""

    def __init__(
        self,
        tier: Tier,
        room: Room,
        channel: socket.socket,
        folder: Path,
        paths: tuple[str, str],
        kill: Callable[[int], None],
    ) -> None:
        """``folder`` is ours to delete and holds ``out`` and ``log``; ``paths`` are the guest's
        names for its data and output folders; ``kill`` ends the whole tree of a root pid."""
        self.tier, self.room, self.folder = tier, room, folder
        self.data, self.out = paths
        self._channel, self._kill = channel, kill
        self._spent, self._root, self.startup_seconds = _Spent(), 0, 0.0
        self._failure: _EndedError | None = None
        self._answered = False
        channel.setblocking(False)
        self._run: Run | None = None

    def greet(self, root: int | None, started: float) -> None:
        """Wait for the worker's first message; ``root`` is the tree's root pid, else its own."""
        limits = Limits(cpu_seconds=START_SECONDS, wall_seconds=START_SECONDS)
        try:
            hello = self._receive(limits, started)
        except _EndedError as ended:
            tail = self._log_tail()
            self.close()
            raise SandboxError(
                f"a {self.tier} sandbox did not start: {ended.reason}\n{tail}"
            ) from None
        self._root = root or int(str(hello.header["pid"]))
        self.startup_seconds = time.monotonic() - started
        with contextlib.suppress(psutil.Error, OSError, ValueError):
            size = self.room.output_bytes
            psutil.Process(self._root).rlimit(psutil.RLIMIT_FSIZE, (size, size))

    def ask(self, message: Message, limits: Limits, hear: Hear = ignore) -> Message | None:
        if self._failure or self._run:
            return None
        now = time.monotonic()
        if self._spent.sent is None:
            self._spent.sent = now
            self._spent.cpu_before = meter.read(self._root).cpu_seconds
        before = self._spent.cpu
        try:
            self._send(message, limits, now, before)
            while True:
                answer = self._receive(limits, now, before)
                if "point" not in answer.header:
                    break
                point = answer.header["point"]
                hear(point if isinstance(point, Mapping) else {})
        except _EndedError as ended:
            self._failure = ended
            return None
        error = answer.header.get("error")
        if error is not None:
            kind = Ending.OUT_OF_MEMORY if "MemoryError" in str(error) else Ending.CRASHED
            self._failure = _EndedError(kind, str(error)[:2000])
        self._answered = True
        return answer

    def close(self, expected: Mapping[str, int] | None = None) -> Run:
        if self._run is not None:
            return self._run
        if self._root and self._spent.sent is not None:
            self._measure()
        wall = time.monotonic() - self._spent.sent if self._spent.sent is not None else 0.0
        self._channel.close()
        if self._root:
            self._kill(self._root)
        ending, reason, outputs = self._ending(expected or {})
        self._run = Run(
            ending=ending,
            tier=self.tier,
            wall_seconds=wall,
            cpu_seconds=self._spent.cpu,
            peak_memory_bytes=self._spent.memory,
            startup_seconds=self.startup_seconds,
            log=self._log_tail(),
            outputs=outputs,
            reason=reason,
        )
        shutil.rmtree(self.folder, ignore_errors=True)
        return self._run

    def _ending(self, expected: Mapping[str, int]) -> tuple[Ending, str, Path | None]:
        if self._failure is not None:
            return self._failure.ending, self._failure.reason, None
        if not self._answered:
            return Ending.NO_OUTPUT, "closed before it answered", None
        if not expected:
            return Ending.FINISHED, "", None
        into = Path(tempfile.mkdtemp(prefix="nightlab-outputs-"))
        reason = collect(self.folder / "out", expected, into)
        if reason is None:
            return Ending.FINISHED, "", into
        shutil.rmtree(into, ignore_errors=True)
        missing = reason.startswith("missing")
        return (Ending.NO_OUTPUT if missing else Ending.BAD_OUTPUT), reason, None

    def _measure(self) -> meter.Usage:
        usage = meter.read(self._root)
        self._spent.cpu = max(self._spent.cpu, usage.cpu_seconds - self._spent.cpu_before)
        self._spent.memory = max(self._spent.memory, usage.memory_bytes)
        return usage

    def _check(self, limits: Limits, since: float, cpu_before: float) -> None:
        wall = time.monotonic() - since
        if wall > limits.wall_seconds:
            raise _EndedError(Ending.TIMEOUT, f"passed {limits.wall_seconds:.0f} s of wall clock")
        if not self._root or self._spent.sent is None:
            return
        usage = self._measure()
        if self._spent.cpu - cpu_before > limits.cpu_seconds:
            raise _EndedError(Ending.TIMEOUT, f"passed {limits.cpu_seconds:.1f} CPU seconds")
        if usage.memory_bytes > min(limits.memory_bytes, self.room.memory_bytes):
            used = usage.memory_bytes >> 20
            raise _EndedError(Ending.OUT_OF_MEMORY, f"used {used} MiB of memory")
        if usage.processes > min(limits.processes, self.room.processes):
            reason = f"ran {usage.processes} threads and processes"
            raise _EndedError(Ending.TOO_MANY_PROCESSES, reason)
        if (size := self._output_bytes()) > min(limits.output_bytes, self.room.output_bytes):
            raise _EndedError(Ending.BAD_OUTPUT, f"wrote {size} bytes")

    def _output_bytes(self) -> int:
        total = 0
        with contextlib.suppress(OSError):
            for entry in os.scandir(self.folder / "out"):
                total += entry.stat(follow_symlinks=False).st_size
        return total

    def _send(self, message: Message, limits: Limits, since: float, cpu: float) -> None:
        for chunk in encode(message):
            view = memoryview(chunk)
            while view:
                if not select.select([], [self._channel], [], TICK_SECONDS)[1]:
                    self._check(limits, since, cpu)
                    continue
                try:
                    view = view[self._channel.send(view) :]
                except OSError as error:
                    raise _EndedError(Ending.CRASHED, f"died: {error.strerror}") from None

    def _receive(self, limits: Limits, since: float, cpu: float = 0.0) -> Message:
        def read(size: int) -> bytes:
            data = bytearray(size)
            view = memoryview(data)
            while view:
                if not select.select([self._channel], [], [], TICK_SECONDS)[0]:
                    self._check(limits, since, cpu)
                    continue
                got = self._read_into(view)
                view = view[got:]
            return bytes(data)

        try:
            return receive(read, max_array_bytes=MAX_ANSWER_BYTES)
        except WireError as error:
            raise _EndedError(Ending.BAD_OUTPUT, f"sent {error}") from None

    def _read_into(self, view: memoryview) -> int:
        try:
            got = self._channel.recv_into(view)
        except OSError as error:
            raise _EndedError(Ending.CRASHED, f"died: {error.strerror}") from None
        if got == 0:
            raise _EndedError(Ending.CRASHED, "died without an answer")
        return got

    def _log_tail(self) -> str:
        with contextlib.suppress(OSError), (self.folder / "log").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
            return file.read().decode(errors="replace")
        return ""


def kill_session(root: int) -> None:
    """SIGKILL a process, its group and every descendant, and wait until they are gone."""
    try:
        top = psutil.Process(root)
        family = [top, *top.children(recursive=True)]
    except psutil.NoSuchProcess:
        family = []
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(root, signal.SIGKILL)
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(family, timeout=5)
