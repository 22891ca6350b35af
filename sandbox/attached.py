"""A container's streams on one attached socket: the worker's channel and its log, in frames.

A frame is a byte that names the stream (1 output, 2 errors), three zeros, four bytes of length,
and that many bytes. Output is the channel, errors are the log.
"""

import select
import socket
from collections.abc import Callable

from nightlab.sandbox.channel import LOG_CHUNK_BYTES, ChannelClosedError, Log

FRAME_HEADER_BYTES = 8
LOG_STREAM = 2


class AttachedChannel:
    """Demultiplexes as it is read."""

    def __init__(self, stream: socket.socket, release: Callable[[], None]) -> None:
        """``release`` lets go of what the socket came from."""
        self.log = Log()
        self._stream, self._release = stream, release
        self._header = bytearray()
        self._kind, self._left = 0, 0
        stream.settimeout(0)

    def wait(self, seconds: float, *, writing: bool = False) -> bool:
        poll = select.poll()
        poll.register(self._stream, select.POLLOUT if writing else select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def send(self, data: memoryview) -> int:
        try:
            return self._stream.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise ChannelClosedError(str(error)) from None

    def receive_into(self, view: memoryview) -> int:
        """At most one frame at a time, so that a flood of log never holds the caller."""
        try:
            if self._left == 0 and not self._read_header():
                return 0
            if self._kind == LOG_STREAM:
                self.log.add(self._take(min(self._left, LOG_CHUNK_BYTES)))
                return 0
            got = self._stream.recv_into(view[: self._left])
        except BlockingIOError:
            return 0
        except OSError as error:
            raise ChannelClosedError(str(error)) from None
        if got == 0:
            raise ChannelClosedError("closed")
        self._left -= got
        return got

    def _read_header(self) -> bool:
        self._header += self._receive(FRAME_HEADER_BYTES - len(self._header))
        if len(self._header) < FRAME_HEADER_BYTES:
            return False
        self._kind = self._header[0]
        self._left = int.from_bytes(self._header[4:], "big")
        self._header.clear()
        return self._left > 0

    def _take(self, size: int) -> bytes:
        data = self._receive(size)
        self._left -= len(data)
        return data

    def _receive(self, size: int) -> bytes:
        data = self._stream.recv(size)
        if not data:
            raise ChannelClosedError("closed")
        return data

    def drain(self) -> None:
        """Read to the end; what is not log is thrown away."""
        waste = memoryview(bytearray(LOG_CHUNK_BYTES))
        try:
            while self.wait(0.2):
                self.receive_into(waste)
        except ChannelClosedError:
            return

    def close(self) -> None:
        self._stream.close()
        self._release()
