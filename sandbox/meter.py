"""What a process tree uses, seen from outside, where no cgroup counts it.

CPU time is kept for every process ever seen, so that what a dead child used is not lost, and
compared with what the kernel passes on to parents that wait for their children. A child that
lives and dies unwaited between two readings escapes; the wall clock bounds what that can hide.
"""

import contextlib

import psutil

from nightlab.sandbox.body import Usage


class TreeMeter:
    """Reads one process and all its descendants."""

    def __init__(self, root: psutil.Process) -> None:
        self.root = root
        self._seen: dict[tuple[int, float], float] = {}
        self._most = 0.0

    def family(self) -> list[psutil.Process]:
        """The root and its descendants that still run, zombies included."""
        if not self.root.is_running():  # its pid may belong to a stranger by now
            return []
        with contextlib.suppress(psutil.Error):
            return [self.root, *self.root.children(recursive=True)]
        return []

    def read(self) -> Usage:
        inherited, memory, threads = 0.0, 0, 0
        for process in self.family():
            with contextlib.suppress(psutil.Error), process.oneshot():
                times = process.cpu_times()
                own = times.user + times.system
                self._seen[process.pid, process.create_time()] = own
                inherited += own + times.children_user + times.children_system
                memory += process.memory_info().rss
                threads += process.num_threads()
        self._most = max(self._most, inherited, sum(self._seen.values()))
        return Usage(cpu_seconds=self._most, memory_bytes=memory, processes=threads)

    def kill(self) -> None:
        """SIGKILL the whole tree, root last, until nothing but perhaps the dead root is left.

        The root is a reaper, so whatever its descendants fork stays below it while it lives. It
        is not waited for here: where it is our own child, its exit code is for our caller.
        """
        for _ in range(1000):
            below = [p for p in self.family()[1:] if not _dead(p)]
            if not below:
                break
            for process in below:
                with contextlib.suppress(psutil.Error):
                    process.suspend()  # a stopped process forks no more
            for process in below:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            psutil.wait_procs(below, timeout=0.05)
        with contextlib.suppress(psutil.Error):
            self.root.kill()


def _dead(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return True
