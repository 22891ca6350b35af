"""A body that is a process tree on this host: what the ``process`` and ``bwrap`` tiers share."""

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil

from nightlab.sandbox.body import Death, Usage
from nightlab.sandbox.cgroup import Cgroup
from nightlab.sandbox.collect import collect
from nightlab.sandbox.meter import TreeMeter

MAX_FILES = 1_024


class Tree:
    """Metered and killed through its control group where it has one, else process by process."""

    image = ""

    def __init__(
        self,
        root: int,
        folder: Path,
        group: Cgroup | None = None,
        wait: Callable[[], int | None] = lambda: None,
    ) -> None:
        """``folder`` is ours to delete and holds the outputs in ``out``; ``wait`` gives the exit
        code of a root that is our own child, after everything was killed."""
        self.tick_seconds = 0.02 if group else 0.05
        self.folder, self.group = folder, group
        self._meter = TreeMeter(psutil.Process(root))
        self._wait = wait
        self._death: Death | None = None

    def alive(self) -> bool:
        with contextlib.suppress(psutil.Error):
            root = self._meter.root
            return root.is_running() and root.status() != psutil.STATUS_ZOMBIE
        return False

    def usage(self) -> Usage:
        usage = self.group.usage() if self.group else self._meter.read()
        return Usage(**{**vars(usage), "output_bytes": folder_bytes(self.folder / "out")})

    def kill(self, grace: float = 0.0) -> Death:
        if self._death is None:
            until = time.monotonic() + grace
            while self.alive() and time.monotonic() < until:
                time.sleep(0.005)
            out_of_memory = bool(self.group and self.group.out_of_memory())
            if self.group:
                self.group.kill()
            self._meter.kill()
            self._death = Death(exit_code=self._wait(), out_of_memory=out_of_memory)
            with contextlib.suppress(psutil.Error):
                self._meter.root.wait(timeout=10.0)
        return self._death

    def collect(self, expected: Mapping[str, int], into: Path) -> str | None:
        return collect(self.folder / "out", expected, into)

    def remove(self) -> None:
        if self.group:
            self.group.remove()
        shutil.rmtree(self.folder, ignore_errors=True)


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below a folder, links not followed; a crowd of files counts as endless."""
    total = 0
    files = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            files += 1
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(parent, name)).st_size
            if files > MAX_FILES:
                return 1 << 62
    return total
