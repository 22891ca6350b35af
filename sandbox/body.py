"""What a cell is made of, as its tier sees it: something to meter, to kill, to collect from."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class Usage:
    """One reading of everything inside a cell."""

    cpu_seconds: float = 0.0
    """Of all that ran since it started, dead processes included."""
    memory_bytes: int = 0
    """Private memory, and files in memory."""
    processes: int = 0
    """Threads of all processes together."""
    output_bytes: int = 0
    refused_process: bool = False
    """A fork was refused because the cell was full."""


@dataclass(frozen=True, kw_only=True)
class Death:
    """How everything in a cell came to its end."""

    exit_code: int | None = None
    """Of its first process, if that ended by itself; negative for a signal."""
    out_of_memory: bool = False
    """The kernel killed something in it for want of memory."""
    lost: str = ""
    """Why the environment, not the program, ended it; empty if it did not."""


class Body(Protocol):
    """One started sandbox under a cell."""

    tick_seconds: float
    """How often reading its meters is worth its price."""
    image: str

    def alive(self) -> bool: ...

    def usage(self) -> Usage:
        """Raises SandboxError when the environment cannot be asked."""
        ...

    def kill(self, grace: float = 0.0) -> Death:
        """End everything in it and wait until it is gone. Harmless when repeated.

        One that is dying by itself gets so many seconds to say how it ended.
        """
        ...

    def collect(self, expected: Mapping[str, int], into: Path) -> str | None:
        """Take the outputs of a killed body, as :func:`nightlab.sandbox.collect.collect` does."""
        ...

    def remove(self) -> None:
        """Leave nothing behind."""
        ...
