"""Cells that are ready before they are asked for: the next jail imports torch while this one works.

A pool is a sandbox over another sandbox. It keeps as many cells ready for each room as that room
is named; whatever else is asked for is opened on the spot.
"""

import contextlib
import threading
import time
from collections.abc import Sequence

from nightlab.errors import NightlabError
from nightlab.sandbox.protocol import Cell, Room, Sandbox

RETRY_SECONDS = 5.0


class WarmSandbox:
    """A pool over an isolating tier; closing it also closes the tier."""

    def __init__(self, inner: Sandbox, rooms: Sequence[Room], openers: int = 1) -> None:
        """``rooms`` is what to keep ready, a room twice for two cells; each of ``openers`` threads
        opens one cell at a time."""
        self.tier = inner.tier
        self._inner, self._rooms = inner, list(rooms)
        self._change = threading.Condition()
        self._ready: list[tuple[Room, Cell]] = []
        self._opening: list[Room] = []
        self._claimed: list[Room] = []
        self._closing = False
        self._threads = [
            threading.Thread(target=self._refill, name=f"nightlab-warm-{n}", daemon=True)
            for n in range(openers)
        ]
        for thread in self._threads:
            thread.start()

    def open(self, room: Room) -> Cell:
        started = time.monotonic()
        cell = self._take(room)
        if cell is None:
            cell = self._inner.open(room)
        cell.startup_seconds = time.monotonic() - started
        return cell

    def drain(self) -> None:
        """End the cells that wait and keep no more ready; the tier itself stays open."""
        with self._change:
            self._closing = True
            self._change.notify_all()
        for thread in self._threads:
            thread.join()
        while self._ready:
            self._ready.pop()[1].close()

    def close(self) -> None:
        self.drain()
        self._inner.close()

    def _take(self, room: Room) -> Cell | None:
        """A ready cell, perhaps after waiting for one that is being opened; None if none is."""
        with self._change:
            self._claimed.append(room)
            try:
                while True:
                    if cell := self._pop(room):
                        return cell
                    if self._opening.count(room) < self._claimed.count(room):
                        return None
                    self._change.wait()
            finally:
                self._claimed.remove(room)
                self._change.notify_all()

    def _pop(self, room: Room) -> Cell | None:
        for index, (ready_room, cell) in enumerate(self._ready):
            if ready_room == room:
                del self._ready[index]
                if cell.alive():
                    return cell
                cell.close()
                return self._pop(room)
        return None

    def _missing(self) -> Room | None:
        have = [room for room, _ in self._ready] + self._opening
        for room in self._rooms:
            if have.count(room) < self._rooms.count(room):
                return room
        return None

    def _refill(self) -> None:
        while True:
            with self._change:
                while not self._closing and (self._missing() is None):
                    self._change.wait()
                room = self._missing()
                if self._closing or room is None:
                    return
                self._opening.append(room)
            cell: Cell | None = None
            with contextlib.suppress(NightlabError):  # whoever asks next meets the error itself
                cell = self._inner.open(room)
            with self._change:
                self._opening.remove(room)
                if cell is not None:
                    self._ready.append((room, cell))
                self._change.notify_all()
                if cell is None:
                    self._change.wait(RETRY_SECONDS)
