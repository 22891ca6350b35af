"""The host's end of a cell: a byte stream to the worker, and what the program prints beside it.

Both are read by the one thread that waits for an answer, so a program that prints without end
slows down only itself. What is printed is kept as it came, within a cap.
"""

import contextlib
import os
import select
import socket
from typing import Protocol

LOG_HEAD_BYTES = 4_096
LOG_TAIL_BYTES = 12_288
LOG_CHUNK_BYTES = 1 << 16


class ChannelClosedError(Exception):
    """The other side is gone."""


class Log:
    """The first and the last of what a program printed, raw; the middle is only counted."""

    def __init__(self) -> None:
        self.total_bytes = 0
        self._head, self._tail = bytearray(), bytearray()

    def add(self, data: bytes) -> None:
        self.total_bytes += len(data)
        room = LOG_HEAD_BYTES - len(self._head)
        self._head += data[:room]
        self._tail += data[room:]
        del self._tail[:-LOG_TAIL_BYTES]

    @property
    def truncated(self) -> bool:
        return self.total_bytes > len(self._head) + len(self._tail)

    def __str__(self) -> str:
        """Undecodable bytes become replacement characters; escape the rest where it is shown."""
        missing = self.total_bytes - len(self._head) - len(self._tail)
        gap = f"\n[... {missing} bytes not kept ...]\n".encode() if missing else b""
        return bytes(self._head + gap + self._tail).decode(errors="replace")


class Channel(Protocol):
    """A stream that never blocks for longer than it is told to."""

    log: Log

    def wait(self, seconds: float, *, writing: bool = False) -> bool:
        """Wait until the stream can be read (or written), taking in the log meanwhile."""
        ...

    def send(self, data: memoryview) -> int:
        """Bytes taken, perhaps 0. Raises ChannelClosedError."""
        ...

    def receive_into(self, view: memoryview) -> int:
        """Bytes put into the view, perhaps 0. Raises ChannelClosedError."""
        ...

    def drain(self) -> None:
        """Take in what is left of the log, once everything that could print is dead."""
        ...

    def close(self) -> None: ...


class SocketChannel:
    """A connected socket, and the reading end of a pipe for the log."""

    def __init__(self, stream: socket.socket, log: int) -> None:
        """Takes over the file descriptor ``log``."""
        self.log = Log()
        self._stream, self._pipe = stream, log
        stream.setblocking(False)
        os.set_blocking(log, False)

    def wait(self, seconds: float, *, writing: bool = False) -> bool:
        poll = select.poll()
        poll.register(self._stream, select.POLLOUT if writing else select.POLLIN)
        if self._pipe >= 0:
            poll.register(self._pipe, select.POLLIN)
        ready = {fd for fd, _ in poll.poll(seconds * 1000)}
        if self._pipe in ready:
            self._take_log()
        return self._stream.fileno() in ready

    def _take_log(self) -> bool:
        try:
            data = os.read(self._pipe, LOG_CHUNK_BYTES)
        except BlockingIOError:
            return False
        self.log.add(data)
        if not data:
            self._close_log()
        return bool(data)

    def send(self, data: memoryview) -> int:
        try:
            return self._stream.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise ChannelClosedError(error.strerror) from None

    def receive_into(self, view: memoryview) -> int:
        try:
            got = self._stream.recv_into(view)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise ChannelClosedError(error.strerror) from None
        if got == 0 and len(view):
            raise ChannelClosedError("closed")
        return got

    def drain(self) -> None:
        while self._pipe >= 0 and self._take_log():
            pass

    def close(self) -> None:
        self._stream.close()
        self._close_log()

    def _close_log(self) -> None:
        if self._pipe >= 0:
            with contextlib.suppress(OSError):
                os.close(self._pipe)
        self._pipe = -1
