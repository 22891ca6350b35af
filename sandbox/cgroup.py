"""A control group for one cell: exact meters, hard limits, and a list of everything to kill.

Version 1 has a hierarchy for each controller, version 2 one for all. Either works where we may
make a group: as root, or below a folder that systemd delegated to the person.
"""

import contextlib
import itertools
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from nightlab.errors import SandboxError
from nightlab.sandbox import leftovers
from nightlab.sandbox.body import Usage

ROOT = Path("/sys/fs/cgroup")
NEEDED = ("memory", "pids", "cpuacct")
PERIOD_MICROSECONDS = 100_000
_numbers = itertools.count()


@dataclass(frozen=True)
class Hierarchy:
    """Where new groups are made."""

    parents: dict[str, Path]
    """Controller to parent folder; version 2 has the same folder for all."""
    version: int


def find(root: Path = ROOT, membership: str | None = None) -> Hierarchy | None:
    """The place below which we may make groups, tried out by making one; None if there is none.

    ``membership`` is the text of ``/proc/self/cgroup``.
    """
    if membership is None:
        own = Path("/proc/self/cgroup")
        membership = own.read_text() if own.exists() else ""
    fields = [line.split(":", 2) for line in membership.splitlines()]
    version_1 = {name: path for _, names, path in fields for name in names.split(",")}
    version_2 = version_1.get("")
    for candidate in _candidates(root, version_1, version_2):
        with contextlib.suppress(OSError):
            group = Cgroup(candidate, memory_bytes=1 << 30, processes=8, cores=1)
            group.remove()
            sweep(candidate)
            return candidate
    return None


def sweep(place: Hierarchy) -> None:
    """End and remove the groups of supervisors that were killed."""
    for parent in set(place.parents.values()):
        for entry in os.scandir(parent):
            if entry.is_dir() and leftovers.abandoned(entry.name):
                folder = Path(entry.path)
                kill_members(folder)
                with contextlib.suppress(OSError):
                    folder.rmdir()


def kill_members(folder: Path, seconds: float = 10.0) -> bool:
    """SIGKILL everything in a group until it is empty; whether that came true in time."""
    deadline = time.monotonic() + seconds
    while members := _members(folder):
        for pid in members:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


def _members(folder: Path) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(pid) for pid in (folder / "cgroup.procs").read_text().split()]
    return []


def _candidates(root: Path, version_1: dict[str, str], version_2: str | None) -> list[Hierarchy]:
    found = []
    if all(name in version_1 for name in NEEDED):
        names = [*NEEDED, *(["cpu"] if "cpu" in version_1 else [])]
        for below in (version_1, dict.fromkeys(version_1, "/")):  # ours may be unseen in here
            paths = {name: root / name / below[name].lstrip("/") for name in names}
            found.append(Hierarchy(paths, 1))
    if version_2 is not None:
        for folder in ((root / version_2.lstrip("/")).parent, root):
            if folder == root or root in folder.parents:
                found.append(Hierarchy(dict.fromkeys([*NEEDED, "cpu"], folder), 2))
    return found


def of_process(pid: int, mark: str, root: Path = ROOT) -> "Reading | None":
    """The group a process is in, if its path bears the mark and we can see it from here."""
    try:
        text = Path(f"/proc/{pid}/cgroup").read_text()
    except OSError:
        return None
    fields = [line.split(":", 2) for line in text.splitlines()]
    paths = {name: path for _, names, path in fields for name in names.split(",") if mark in path}
    version = 1 if all(name in paths for name in NEEDED) else 2
    if version == 1:
        folders = {name: root / name / paths[name].lstrip("/") for name in NEEDED}
    else:
        folders = dict.fromkeys(NEEDED, root / paths.get("", "-").lstrip("/"))
    reading = Reading(folders, version)
    try:
        reading.usage()
    except (SandboxError, KeyError):
        return None
    return reading


class Reading:
    """The meters of a group, whoever made it."""

    def __init__(self, folders: dict[str, Path], version: int) -> None:
        """``folders`` maps each controller to the group's folder in its hierarchy."""
        self.folders, self.version = folders, version

    def usage(self) -> Usage:
        """Raises SandboxError when somebody removed the group."""
        try:
            memory = _pairs(self.folders["memory"] / "memory.stat")
            pids = self.folders["pids"]
            refused = _pairs(pids / "pids.events").get("max", 0)
            return Usage(
                cpu_seconds=self._cpu_seconds(),
                memory_bytes=self._memory(memory),
                processes=int((pids / "pids.current").read_text()),
                refused_process=refused > 0,
            )
        except (OSError, ValueError) as error:
            raise SandboxError(f"the cell's control group cannot be read: {error}") from error

    def _cpu_seconds(self) -> float:
        folder = self.folders["cpuacct"]
        if self.version == 2:
            return _pairs(folder / "cpu.stat")["usage_usec"] / 1e6
        return int((folder / "cpuacct.usage").read_text()) / 1e9

    def _memory(self, stat: dict[str, int]) -> int:
        if self.version == 2:
            return stat["anon"] + stat["shmem"]
        return stat["total_rss"] + stat.get("total_shmem", 0)

    def out_of_memory(self) -> bool:
        """Whether the kernel killed something in it."""
        file = "memory.events" if self.version == 2 else "memory.oom_control"
        with contextlib.suppress(OSError):
            return _pairs(self.folders["memory"] / file).get("oom_kill", 0) > 0
        return False


class Cgroup(Reading):
    """A group of our own. Raises OSError where the kernel refuses it."""

    def __init__(self, place: Hierarchy, *, memory_bytes: int, processes: int, cores: int) -> None:
        name = leftovers.stem("cell") + str(next(_numbers))
        folders = {key: parent / name for key, parent in place.parents.items()}
        super().__init__(folders, place.version)
        try:
            for folder in set(self.folders.values()):
                folder.mkdir()
            for controller, file, value in self._limits(memory_bytes, processes, cores):
                target = self.folders.get(controller, Path()) / file
                if controller in NEEDED or (controller in self.folders and target.exists()):
                    target.write_text(value)
            with contextlib.suppress(OSError):  # only where swap is counted
                swap = "memory.swap.max" if self.version == 2 else "memory.memsw.limit_in_bytes"
                text = "0" if self.version == 2 else str(memory_bytes)
                if (self.folders["memory"] / swap).exists():
                    (self.folders["memory"] / swap).write_text(text)
        except OSError:
            self.remove()
            raise

    def _limits(self, memory: int, processes: int, cores: int) -> list[tuple[str, str, str]]:
        quota = cores * PERIOD_MICROSECONDS
        if self.version == 2:
            return [
                ("memory", "memory.max", str(memory)),
                ("pids", "pids.max", str(processes)),
                ("cpu", "cpu.max", f"{quota} {PERIOD_MICROSECONDS}"),
            ]
        return [
            ("memory", "memory.limit_in_bytes", str(memory)),
            ("pids", "pids.max", str(processes)),
            ("cpu", "cpu.cfs_period_us", str(PERIOD_MICROSECONDS)),
            ("cpu", "cpu.cfs_quota_us", str(quota)),
        ]

    def add(self, pid: int) -> None:
        """Move a process in, before it has children."""
        for folder in set(self.folders.values()):
            (folder / "cgroup.procs").write_text(str(pid))

    def kill(self) -> bool:
        """SIGKILL all members until there are none; whether that came true in time."""
        with contextlib.suppress(OSError):
            (self.folders["pids"] / "pids.max").write_text("0")  # no more forks
        return kill_members(self.folders["pids"])

    def remove(self) -> None:
        """Forget the group; it must be empty."""
        deadline = time.monotonic() + 2.0
        for folder in set(self.folders.values()):
            while folder.exists():
                try:
                    folder.rmdir()
                except OSError:  # the last member is still being buried
                    if time.monotonic() > deadline:
                        break
                    time.sleep(0.005)


def _pairs(file: Path) -> dict[str, int]:
    """A file of ``name value`` lines."""
    lines = (line.split() for line in file.read_text().splitlines())
    return {pair[0]: int(pair[1]) for pair in lines if len(pair) == 2}
