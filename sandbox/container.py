"""A body that is a container: metered, killed, collected from and buried through its engine."""

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, Protocol

from nightlab.errors import SandboxError
from nightlab.sandbox import cgroup
from nightlab.sandbox.body import Death, Usage
from nightlab.sandbox.collect import collect_archive
from nightlab.sandbox.guest.init import KILLED_BASE

ARCHIVE_SLACK_BYTES = 1 << 20
KILLED_FROM_OUTSIDE = 137


class ContainerEngine(Protocol):
    """What a container needs of its engine; everything raises SandboxError."""

    def inspect(self, name: str) -> Mapping[str, Any]: ...

    def stats(self, name: str) -> Mapping[str, Any]: ...

    def kill(self, name: str) -> None:
        """Kill it and wait until it is dead."""
        ...

    def archive(self, name: str, path: str) -> Iterator[bytes]: ...

    def discard(self, kind: Literal["container", "volume"], name: str) -> None: ...


class Container:
    """A started container, its volume and the volume's holder."""

    def __init__(self, engine: ContainerEngine, name: str, image_id: str, *, outputs: bool) -> None:
        self.engine, self.name, self.image = engine, name, image_id
        self.tick_seconds = 0.5
        self._outputs = outputs
        self._last = Usage()
        self._death: Death | None = None
        self._reading: cgroup.Reading | None = None
        self.bury: ThreadPoolExecutor | None = None
        self.gone: Callable[[], None] = lambda: None
        """Called once everything of it is dead and removed."""

    def alive(self) -> bool:
        with contextlib.suppress(SandboxError):
            return bool(self._state().get("Running"))
        return False

    def _state(self) -> Mapping[str, Any]:
        state: Mapping[str, Any] = self.engine.inspect(self.name)["State"]
        return state

    def find_meters(self) -> None:
        """Read the control group itself where the engine is on this host: the engine's own answer
        takes a second."""
        entry = self.engine.inspect(self.name)
        self._reading = cgroup.of_process(int(entry["State"]["Pid"]), entry["Id"])
        self.tick_seconds = 0.02 if self._reading else 0.5

    def usage(self) -> Usage:
        if self._reading is not None:
            with contextlib.suppress(SandboxError):  # the group goes when its last process does
                self._last = self._reading.usage()
            return self._last
        self._last = usage_of(self.engine.stats(self.name), self._last.cpu_seconds)
        return self._last

    def kill(self, grace: float = 0.0) -> Death:
        if self._death is None:
            try:
                self._death = self._kill(grace)
            except SandboxError as error:
                self._death = Death(lost=str(error))
        return self._death

    def _kill(self, grace: float) -> Death:
        until = time.monotonic() + grace
        state = self._state()
        while state["Running"] and time.monotonic() < until:
            time.sleep(0.02)
            state = self._state()
        by_itself = not state["Running"]
        if not by_itself:
            self.engine.kill(self.name)
            state = self._state()
        code = int(state["ExitCode"])
        starved = bool(state["OOMKilled"])
        if by_itself and code == KILLED_FROM_OUTSIDE and not starved:
            return Death(exit_code=-9, lost="the container was killed from outside")
        signal_or_code = KILLED_BASE - code if code > KILLED_BASE else code
        return Death(
            exit_code=signal_or_code if by_itself else None,
            out_of_memory=starved,
        )

    def collect(self, expected: Mapping[str, int], into: Path) -> str | None:
        if not self._outputs:
            return "missing output: the cell was opened without an output folder"
        cap = sum(expected.values()) + ARCHIVE_SLACK_BYTES
        with tempfile.TemporaryFile(dir=into.parent) as spool:
            for chunk in self.engine.archive(f"{self.name}-holder", "/out"):
                if spool.tell() + len(chunk) > cap:
                    return f"more than {cap} bytes of outputs"
                spool.write(chunk)
            spool.seek(0)
            return collect_archive(spool, "out", expected, into)

    def remove(self) -> None:
        if self.bury is not None:
            self.bury.submit(self._remove)
        else:
            self._remove()

    def _remove(self) -> None:
        names: list[tuple[Literal["container", "volume"], str]] = [("container", self.name)]
        if self._outputs:
            names += [("container", f"{self.name}-holder"), ("volume", self.name)]
        for kind, name in names:
            with contextlib.suppress(SandboxError):
                self.engine.discard(kind, name)  # what is left behind, the reaper finds
        self.gone()


def usage_of(stats: Mapping[str, Any], cpu_before: float) -> Usage:
    """The engine's own reading; one of a container that has just died is all zeros."""
    memory = stats["memory_stats"].get("stats", {})
    private = memory.get("total_rss", memory.get("anon", 0))
    shared = memory.get("total_shmem", memory.get("shmem", 0))
    pids = stats.get("pids_stats", {})
    count = int(pids.get("current", 0))
    cpu = stats["cpu_stats"]["cpu_usage"].get("total_usage", 0) / 1e9
    return Usage(
        cpu_seconds=max(cpu_before, cpu),
        memory_bytes=int(private) + int(shared),
        processes=count,
        refused_process=0 < int(pids.get("limit", 0)) <= count,
    )
