"""A cell over any body: the conversation, its limits, and how it ended.

One thread does everything: while it waits for the guest it reads the meters and ends the cell
when a limit is passed, however busy the guest keeps the stream. Clocks and meters are the host's.
"""

import contextlib
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nightlab.errors import SandboxError
from nightlab.sandbox import leftovers
from nightlab.sandbox.body import Body, Death, Usage
from nightlab.sandbox.channel import Channel, ChannelClosedError
from nightlab.sandbox.guest.wire import Message, WireError, encode, receive
from nightlab.sandbox.protocol import MAX_ANSWER_BYTES, AbortError, Hear, Room, ignore
from nightlab.vocabulary import Ending, Limits, Run, Tier

MAX_POINTS = 10_000
REASON_LETTERS = 2_000
DYING_SECONDS = 1.0
"""What a cell whose channel closed gets to say how it died."""
OUT_OF_MEMORY = ("MemoryError", "OutOfMemoryError", "not enough memory", "Cannot allocate memory")
TOO_MANY = ("can't start new thread", "Resource temporarily unavailable", "BlockingIOError")


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


@dataclass
class _Watch:
    """The limits of one conversation and where it started."""

    limits: Limits
    since: float
    cpu_before: float
    due: float = 0.0


class LiveCell:
    """A worker behind a channel, in a body that can be metered and killed."""

    def __init__(
        self, tier: Tier, room: Room, channel: Channel, body: Body, paths: tuple[str, str]
    ) -> None:
        """``paths`` are the guest's names for its data and output folders."""
        self.tier, self.room, self.body = tier, room, body
        self.data, self.out = paths
        self._channel = channel
        self._spent = _Spent()
        self.startup_seconds = 0.0
        self._failure: _EndedError | None = None
        self._answered = False
        self._run: Run | None = None

    def greet(self, started: float, seconds: float) -> Mapping[str, object]:
        """Wait for the worker's first message and return it.

        Raises:
            SandboxError: it did not come within ``seconds`` of ``started``.
        """
        limits = Limits(cpu_seconds=seconds, wall_seconds=seconds)
        try:
            hello = self._receive(_Watch(limits, started, 0.0), MAX_ANSWER_BYTES)
        except _EndedError as ended:
            self._failure = ended
            run = self.close()
            raise SandboxError(
                f"a {self.tier} sandbox did not start: {run.reason}\n{run.log[-2000:]}".strip()
            ) from None
        self.startup_seconds = time.monotonic() - started
        return hello.header

    def alive(self) -> bool:
        return self._run is None and self._failure is None and self.body.alive()

    def memory_bytes(self) -> int:
        """As :class:`nightlab.sandbox.protocol.Cell` says."""
        if not self.alive():
            return 0
        try:
            usage = self.body.usage()
        except SandboxError:
            return 0
        return usage.memory_bytes + usage.output_bytes

    def cpu_seconds(self) -> float:
        """As :class:`nightlab.sandbox.protocol.Cell` says."""
        if self.alive():
            with contextlib.suppress(_EndedError):
                self._measure()
        return self._spent.cpu

    def ask(
        self,
        message: Message,
        limits: Limits,
        hear: Hear = ignore,
        answer_bytes: int = MAX_ANSWER_BYTES,
    ) -> Message | None:
        if self._failure or self._run:
            return None
        try:
            answer = self._converse(message, limits, hear, answer_bytes)
        except _EndedError as ended:
            self._failure = ended
            return None
        error = answer.header.get("error")
        if error is not None:
            self._failure = _EndedError(_kind(str(error)), str(error)[:REASON_LETTERS])
        self._answered = True
        return answer

    def _converse(self, message: Message, limits: Limits, hear: Hear, answer_bytes: int) -> Message:
        now = time.monotonic()
        if self._spent.sent is None:
            self._spent.sent = now
            self._spent.cpu_before = self._usage().cpu_seconds
        watch = _Watch(limits, now, self._spent.cpu)
        self._send(message, watch)
        for _ in range(MAX_POINTS):
            answer = self._receive(watch, answer_bytes)
            if "point" not in answer.header:
                return answer
            point = answer.header["point"]
            try:
                hear(point if isinstance(point, Mapping) else {})
            except AbortError as abort:
                raise _EndedError(Ending.ABORTED, str(abort)) from None
        raise _EndedError(Ending.BAD_OUTPUT, f"reported more than {MAX_POINTS} points")

    def close(self, expected: Mapping[str, int] | None = None) -> Run:
        if self._run is not None:
            return self._run
        lost = ""
        try:
            if self._spent.sent is not None:
                self._measure()
        except _EndedError as ended:
            lost = ended.reason
        dying = self._failure is not None and self._failure.ending is Ending.CRASHED
        death = self.body.kill(DYING_SECONDS if dying and not self._answered else 0.0)
        wall = time.monotonic() - self._spent.sent if self._spent.sent is not None else 0.0
        self._channel.drain()
        self._channel.close()
        if lost and not death.lost:
            death = Death(lost=lost, exit_code=death.exit_code)
        ending, reason, outputs = self._ending(death, expected or {})
        self._run = Run(
            ending=ending,
            tier=self.tier,
            exit_code=death.exit_code,
            wall_seconds=wall,
            cpu_seconds=self._spent.cpu,
            peak_memory_bytes=self._spent.memory,
            startup_seconds=self.startup_seconds,
            log=str(self._channel.log),
            outputs=outputs,
            reason=reason,
            image=self.body.image,
        )
        self.body.remove()
        return self._run

    def _ending(self, death: Death, expected: Mapping[str, int]) -> tuple[Ending, str, Path | None]:
        failure = self._failure
        if failure is None or failure.ending is Ending.CRASHED:
            if death.lost:
                return Ending.LOST, death.lost, None
            if death.out_of_memory:
                return Ending.OUT_OF_MEMORY, "the kernel ended it for want of memory", None
        if failure is not None:
            code = death.exit_code
            if failure.ending is Ending.CRASHED and code == 0 and not self._answered:
                return Ending.NO_OUTPUT, "ended by itself without an answer", None
            code_text = f" (exit code {code})" if failure.ending is Ending.CRASHED and code else ""
            return failure.ending, failure.reason + code_text, None
        if not self._answered:
            return Ending.NO_OUTPUT, "closed before it answered", None
        if not expected:
            return Ending.FINISHED, "", None
        return self._collect(expected)

    def _collect(self, expected: Mapping[str, int]) -> tuple[Ending, str, Path | None]:
        into = Path(tempfile.mkdtemp(prefix=leftovers.stem("outputs")))
        try:
            reason = self.body.collect(expected, into)
        except (OSError, SandboxError) as error:  # our disk or our engine, not the program
            shutil.rmtree(into, ignore_errors=True)
            return Ending.LOST, f"the outputs could not be stored: {error}", None
        if reason is None:
            return Ending.FINISHED, "", into
        shutil.rmtree(into, ignore_errors=True)
        missing = reason.startswith("missing")
        return (Ending.NO_OUTPUT if missing else Ending.BAD_OUTPUT), reason, None

    def _usage(self) -> Usage:
        try:
            return self.body.usage()
        except SandboxError as error:
            raise _EndedError(Ending.LOST, str(error)) from None

    def _measure(self) -> Usage:
        usage = self._usage()
        self._spent.cpu = max(self._spent.cpu, usage.cpu_seconds - self._spent.cpu_before)
        self._spent.memory = max(self._spent.memory, usage.memory_bytes)
        return usage

    def _check(self, watch: _Watch) -> None:
        """Raise if the conversation passed a limit; cheap when called more often than useful."""
        now = time.monotonic()
        limits = watch.limits
        if now - watch.since > limits.wall_seconds:
            raise _EndedError(Ending.TIMEOUT, f"passed {limits.wall_seconds:.1f} s of wall clock")
        if now < watch.due or self._spent.sent is None:
            return
        usage = self._measure()
        watch.due = time.monotonic() + self.body.tick_seconds
        if self._spent.cpu - watch.cpu_before > limits.cpu_seconds:
            raise _EndedError(Ending.TIMEOUT, f"passed {limits.cpu_seconds:.1f} CPU seconds")
        if usage.memory_bytes > min(limits.memory_bytes, self.room.memory_bytes):
            used = usage.memory_bytes >> 20
            raise _EndedError(Ending.OUT_OF_MEMORY, f"used {used} MiB of memory")
        most = min(limits.processes, self.room.processes)
        if usage.refused_process or usage.processes > most:
            reason = f"wanted more than {most} threads and processes"
            raise _EndedError(Ending.TOO_MANY_PROCESSES, reason)
        if usage.output_bytes > min(limits.output_bytes, self.room.output_bytes):
            raise _EndedError(Ending.BAD_OUTPUT, f"wrote {usage.output_bytes} bytes")

    def _send(self, message: Message, watch: _Watch) -> None:
        for chunk in encode(message):
            view = memoryview(chunk)
            while view:
                if self._channel.wait(self.body.tick_seconds, writing=True):
                    view = view[self._send_some(view) :]
                self._check(watch)

    def _send_some(self, view: memoryview) -> int:
        try:
            return self._channel.send(view)
        except ChannelClosedError:
            raise _EndedError(Ending.CRASHED, "died before it read its job") from None

    def _receive(self, watch: _Watch, answer_bytes: int) -> Message:
        def read(size: int) -> bytearray:
            data = bytearray(size)
            view = memoryview(data)
            while view:
                if self._channel.wait(self.body.tick_seconds):
                    view = view[self._receive_some(view) :]
                self._check(watch)
            return data

        try:
            return receive(read, max_array_bytes=answer_bytes)
        except WireError as error:
            raise _EndedError(Ending.BAD_OUTPUT, f"sent {error}") from None

    def _receive_some(self, view: memoryview) -> int:
        try:
            return self._channel.receive_into(view)
        except ChannelClosedError:
            raise _EndedError(Ending.CRASHED, "died without an answer") from None


def _kind(error: str) -> Ending:
    """How a program's own account of its failure is filed; it only ever costs the program."""
    if any(word in error for word in OUT_OF_MEMORY):
        return Ending.OUT_OF_MEMORY
    if any(word in error for word in TOO_MANY):
        return Ending.TOO_MANY_PROCESSES
    return Ending.CRASHED
