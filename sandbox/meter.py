"""What a process tree uses, seen from outside.

Children that were waited for stay in their parent's sums; the CPU time of a child that died
unwaited between two readings is lost, so the largest sum seen is kept.
"""

from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class Usage:
    """One reading of a tree."""

    cpu_seconds: float
    memory_bytes: int
    processes: int
    """Threads of all processes together."""
    alive: bool


def read(root: int) -> Usage:
    """The usage of a process and all its descendants."""
    try:
        top = psutil.Process(root)
        family = [top, *top.children(recursive=True)]
    except psutil.NoSuchProcess:
        return Usage(0.0, 0, 0, alive=False)
    cpu, memory, count = 0.0, 0, 0
    alive = False
    for process in family:
        try:
            with process.oneshot():
                times = process.cpu_times()
                cpu += times.user + times.system + times.children_user + times.children_system
                memory += process.memory_info().rss
                count += process.num_threads()
                alive = alive or process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            continue
    return Usage(cpu, memory, count, alive)
