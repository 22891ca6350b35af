"""The first process of a cell: seals itself, then runs one worker and buries what it leaves.

As process 1 of a container it cannot be killed from inside, so its own death by a signal means
that somebody outside did it; a worker's death by a signal is reported as an exit code instead.
As a subreaper it keeps every descendant of its worker findable, whatever they fork.
"""

import contextlib
import os
import signal
from collections.abc import Callable

from nightlab.sandbox.guest import seal

KILLED_BASE = 64
"""A worker that died by signal n makes its init exit with this plus n."""


def watch(work: Callable[[], None]) -> None:
    """Fork; do the work in the child, reap in the parent until the child is gone, and exit."""
    seal.prctl(seal.PR_SET_CHILD_SUBREAPER, 1)
    worker = os.fork()
    if worker == 0:
        work()
        os._exit(0)
    _leave_streams()
    if os.getpid() != 1:
        signal.signal(signal.SIGTERM, lambda *_: bury())
    code = 0
    while True:
        try:
            pid, status = os.wait()
        except ChildProcessError:
            os._exit(code)
        if pid == worker:
            code = os.waitstatus_to_exitcode(status)
            # A status of its own choice must not look like a signal, ours or anyone's.
            code = min(code, KILLED_BASE - 1) if code >= 0 else KILLED_BASE - code
            if os.getpid() == 1:  # the kernel ends everything else in the container
                os._exit(code)


def bury() -> None:
    """Kill every descendant, however deep, and exit: those of a dead child become ours to see."""
    me = os.getpid()
    while True:
        with open(f"/proc/{me}/task/{me}/children") as file:
            children = [int(pid) for pid in file.read().split()]
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            os.wait()
        except ChildProcessError:
            os._exit(0)


def _leave_streams() -> None:
    """Let go of the channel, so that the host sees it close when the worker dies."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nowhere, stream)
    os.closerange(3, 4096)


def main() -> None:
    """Serve standard input and output, sealed, under a reaper when this is process 1."""
    from_host = seal.Seal.from_environment()
    sealed = seal.apply(from_host) if from_host else False

    def work() -> None:
        from nightlab.sandbox.guest.worker import serve_pipes

        serve_pipes(sealed)

    if os.getpid() == 1:
        watch(work)
    else:
        work()


if __name__ == "__main__":
    main()
