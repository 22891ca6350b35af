"""What every tier offers: cells that are warm before their job is known.

A *cell* is one started sandbox with one waiting worker (``sandbox/guest/worker.py``). The host
sends it a few messages about one program, then closes it, which kills everything in it and
collects what it wrote. Cells are never reused for another program.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from nightlab.errors import SandboxError
from nightlab.sandbox.guest.wire import Message
from nightlab.vocabulary import Limits, Run, Tier

MAX_ANSWER_BYTES = 512 << 20

Hear = Callable[[Mapping[str, object]], None]
"""Called with each progress point a worker reports: self-reported, shown and never rewarded.
Raising :class:`AbortError` in it ends the cell as ``aborted``."""


class AbortError(Exception):
    """Raised by a listener that has heard enough; its text becomes the run's reason."""


def ignore(_: Mapping[str, object]) -> None:
    """Hear nothing."""


@dataclass(frozen=True, kw_only=True)
class Room:
    """What is fixed about a cell before its job is known."""

    data: Path | None = None
    """A folder to mount read-only, or nothing at all (the oracle's cells)."""
    memory_bytes: int = 4 << 30
    processes: int = 64
    output_bytes: int = 256 << 20
    """All outputs together; 0 for a cell that is only asked, which then has no output folder to
    collect from and starts faster."""
    threads: int = 1
    gpu: str | None = None
    """UUID of the one GPU it may use."""
    labels: Mapping[str, str] | None = None


def check_readable(data: Path | None) -> None:
    """Whether the unnamed user inside can read a data folder: what it cannot read would look like
    the program's failure.

    Raises:
        SandboxError: it cannot; says how to change that.
    """
    if data is None:
        return
    for path in (data, *data.rglob("*")):
        wanted = 0o005 if path.is_dir() else 0o004
        if path.stat().st_mode & wanted != wanted:
            raise SandboxError(f"{path} is not readable by everybody; run `chmod -R a+rX {data}`")


class Cell(Protocol):
    """One warm sandbox."""

    data: str
    """Where the guest sees the room's data folder."""
    out: str
    """Where the guest writes its outputs."""
    startup_seconds: float
    """What whoever opened it waited for it."""

    def ask(
        self,
        message: Message,
        limits: Limits,
        hear: Hear = ignore,
        answer_bytes: int = MAX_ANSWER_BYTES,
    ) -> Message | None:
        """Send a message and wait for its answer, of at most so many bytes of arrays.

        Returns None when the cell died or passed a limit first; ``close`` then says why. An
        answer is untrusted. Answers with an ``error`` key are the program's own failure.
        """
        ...

    def alive(self) -> bool:
        """Whether it can still be asked."""
        ...

    def memory_bytes(self) -> int:
        """Memory and files of everything in it now, seen from outside; 0 when it is dead."""
        ...

    def cpu_seconds(self) -> float:
        """CPU time of everything in it since its first message, seen from outside."""
        ...

    def close(self, expected: Mapping[str, int] | None = None) -> Run:
        """Kill everything in the cell, collect the expected outputs (name to largest size in
        bytes) into a fresh folder, and say how it ended. Closing twice returns the same run."""
        ...


class Sandbox(Protocol):
    """One tier, ready to open cells."""

    tier: Tier

    def open(self, room: Room) -> Cell:
        """Start a cell and wait until its worker is ready.

        Raises:
            SandboxError: the environment failed; never the program's fault.
        """
        ...

    def close(self) -> None:
        """End whatever the tier keeps running."""
        ...
