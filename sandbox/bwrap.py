"""The ``bwrap`` tier: new namespaces for everything, a root with torch and nothing else in it.

No network, no host files, no capabilities, a private process table, capped files in memory. What
it does not have is docker's own kernel filter and engine; the worker's seal stands in for the
first. Memory and processes are limited by a control group where we may make one, else by limits
of the process and by the meters outside, which a burst can outrun.
"""

import json
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from nightlab.errors import MissingError, SandboxError, boundary
from nightlab.sandbox import cgroup, leftovers, needs
from nightlab.sandbox.body import Usage
from nightlab.sandbox.cell import LiveCell
from nightlab.sandbox.channel import SocketChannel
from nightlab.sandbox.collect import collect
from nightlab.sandbox.guest.seal import VARIABLE, Seal
from nightlab.sandbox.process import START_SECONDS, TEMPORARY_BYTES, thread_variables
from nightlab.sandbox.protocol import Room, check_readable
from nightlab.sandbox.tree import MAX_FILES, Tree
from nightlab.vocabulary import Tier

NOBODY = 65534
SHARED_MEMORY_BYTES = 1 << 30
REMEDY = "install the package bubblewrap, and allow unprivileged user namespaces"
KERNEL_FOLDERS = ("sys", "irq", "bus", "fs", "sysrq-trigger", "acpi", "scsi")
KERNEL_FILES = ("kcore", "kallsyms", "kmsg", "keys", "timer_list", "sched_debug", "latency_stats")


class Jail(Tree):
    """A process tree whose files live in memory, seen through folders opened before it ran."""

    def __init__(
        self, monitor: subprocess.Popen[bytes], init: int, folder: Path, group: cgroup.Cgroup | None
    ) -> None:
        """``init`` is process 1 of the jail."""
        super().__init__(monitor.pid, folder, group, self._exit_code)
        self._monitor, self._init = monitor, init
        self._folders: dict[str, int] = {}

    def look_in(self) -> None:
        """Open its folders: once they are mounted, before foreign code is in. What is open
        outlives the jail's own mounts."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
        for name in ("out", "tmp", "dev/shm"):
            self._folders[name] = os.open(f"/proc/{self._init}/root/{name}", flags)

    def _exit_code(self) -> int | None:
        code = self._monitor.wait()
        return None if code == -9 else code if code < 128 else 128 - code

    def usage(self) -> Usage:
        usage = self.group.usage() if self.group else self._meter.read()
        used = {name: os.statvfs(fd) for name, fd in self._folders.items()}
        size = {n: (s.f_blocks - s.f_bfree) * s.f_frsize for n, s in used.items()}
        crowded = any(s.f_files - s.f_ffree > MAX_FILES for s in used.values())
        memory = usage.memory_bytes if self.group else usage.memory_bytes + sum(size.values())
        output = 1 << 62 if crowded else size["out"]
        return Usage(**{**vars(usage), "memory_bytes": memory, "output_bytes": output})

    def collect(self, expected: Mapping[str, int], into: Path) -> str | None:
        return collect(self._folders["out"], expected, into)

    def remove(self) -> None:
        for fd in self._folders.values():
            os.close(fd)
        self._folders = {}
        super().remove()


class BwrapSandbox:
    """Starts one jail for every cell."""

    tier = Tier.BWRAP

    def __init__(self) -> None:
        """Raises MissingError when bubblewrap is not installed."""
        program = shutil.which("bwrap")
        if program is None:
            raise MissingError(f"bubblewrap is not installed: {REMEDY}")
        self._program = program
        self._needs = needs.find()
        self._place = cgroup.find()
        self._home = leftovers.make_home("bwrap")
        self._home.chmod(0o755)
        for name in ("empty", "etc"):
            (self._home / name).mkdir()
        (self._home / "etc/passwd").write_text(f"nobody:x:{NOBODY}:{NOBODY}::/tmp:/none\n")
        # Its jails die with the thread that forked them, so one thread that stays forks them all.
        self._forker = ThreadPoolExecutor(1, "nightlab-bwrap")
        self._cells = 0
        self._lock = threading.Lock()

    @property
    def counted(self) -> bool:
        """Whether control groups hold memory and processes."""
        return self._place is not None

    def open(self, room: Room) -> LiveCell:
        started = time.monotonic()
        if room.gpu is not None:
            raise MissingError("the bwrap tier runs on the CPU only; use --sandbox docker")
        if os.getuid() == 0:  # the worker becomes nobody
            check_readable(room.data)
        with boundary(SandboxError, "starting bubblewrap"):
            folder = Path(tempfile.mkdtemp(prefix="cell-", dir=self._home))
            here, there = socket.socketpair()
            with there:
                body, channel = self._start(room, folder, here, there)
        paths = ("/data" if room.data else "", "/out")
        cell = LiveCell(self.tier, room, channel, body, paths)
        cell.greet(started, START_SECONDS)
        try:
            body.look_in()
        except OSError as error:
            cell.close()
            raise SandboxError(f"a jail's folders cannot be seen from outside: {error}") from error
        return cell

    def close(self) -> None:
        self._forker.shutdown()
        shutil.rmtree(self._home, ignore_errors=True)

    def _start(
        self, room: Room, folder: Path, here: socket.socket, there: socket.socket
    ) -> tuple[Jail, SocketChannel]:
        log_read, log_write = os.pipe()
        info_read, info_write = os.pipe()
        hold_read, hold_write = os.pipe()
        arguments = self._arguments(room, info_write, hold_read)

        def fork() -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                arguments, stdin=there.fileno(), stdout=there.fileno(), stderr=log_write,
                env={}, cwd="/", pass_fds=(info_write, hold_read), start_new_session=True,
            )  # fmt: skip

        try:
            monitor = self._forker.submit(fork).result()
        finally:
            for fd in (log_write, info_write, hold_read):
                os.close(fd)
        channel = SocketChannel(here, log_read)
        group = None
        try:
            with os.fdopen(info_read, "rb") as info:
                init = int(json.loads(info.read() or "{}").get("child-pid", 0))
            group = self._group(room, init)
            os.write(hold_write, b"!")
            body = Jail(monitor, init, folder, group)
        except (OSError, ValueError, psutil.Error) as error:
            monitor.kill()
            monitor.wait()
            channel.drain()
            channel.close()
            if group is not None:
                group.kill()
                group.remove()
            raise SandboxError(f"bubblewrap failed: {error}; it said: {channel.log}") from error
        finally:
            os.close(hold_write)
        return body, channel

    def _group(self, room: Room, init: int) -> cgroup.Cgroup | None:
        if init <= 0:
            raise ValueError("it started nothing")
        if self._place is None:
            return None
        group = cgroup.Cgroup(
            self._place,
            memory_bytes=room.memory_bytes,
            processes=room.processes,
            cores=room.threads,
        )
        group.add(init)
        return group

    def _arguments(self, room: Room, info: int, hold: int) -> list[str]:
        line = [self._program, "--die-with-parent", "--new-session", "--clearenv"]
        line += ["--info-fd", str(info), "--block-fd", str(hold), "--cap-drop", "ALL"]
        if os.getuid() == 0:
            # Root in a user namespace still owns the kernel's own files: become nobody instead.
            for space in ("ipc", "pid", "net", "uts", "cgroup-try"):
                line.append(f"--unshare-{space}")
            for capability in ("SETUID", "SETGID", "SETPCAP"):
                line += ["--cap-add", f"CAP_{capability}"]
        else:
            line += ["--unshare-all", "--uid", str(NOBODY), "--gid", str(NOBODY)]
        line += self._furniture(room)
        for name, value in self._environment(room).items():
            line += ["--setenv", name, value]
        return [*line, "/opt/python/bin/python3", "-m", "nightlab.sandbox.guest.init"]

    def _furniture(self, room: Room) -> list[str]:
        line = []
        targets = [target for _, target in self._needs.binds]
        for folder in _parents([*targets, "/sys/devices/system/cpu"]):
            line += ["--perms", "0755", "--dir", folder]
        for source, target in self._needs.binds:
            line += ["--ro-bind", str(source), target]
        for target in self._needs.hidden:
            line += ["--ro-bind", str(self._home / "empty"), target]
        line += ["--ro-bind", str(self._home / "etc"), "/etc", "--proc", "/proc"]
        for name in KERNEL_FOLDERS:
            line += ["--ro-bind-try", f"/proc/{name}", f"/proc/{name}"]
        for name in KERNEL_FILES:
            if Path("/proc", name).exists():
                line += ["--ro-bind", "/dev/null", f"/proc/{name}"]
        line += ["--ro-bind-try", "/sys/devices/system/cpu", "/sys/devices/system/cpu"]
        line += ["--dev", "/dev", "--remount-ro", "/dev"]
        sizes = {"/dev/shm": SHARED_MEMORY_BYTES, "/tmp": TEMPORARY_BYTES}
        sizes["/out"] = max(room.output_bytes, 4096)
        for folder, size in sizes.items():
            line += ["--perms", "1777", "--size", str(size), "--tmpfs", folder]
        if room.data is not None:
            line += ["--ro-bind", str(room.data), "/data"]
        return [*line, "--remount-ro", "/", "--chdir", "/tmp"]

    def _environment(self, room: Room) -> Mapping[str, str]:
        counted = self._place is not None
        seal = Seal(
            file_bytes=max(room.output_bytes, TEMPORARY_BYTES),
            processes=None if counted else room.processes,
            user=NOBODY if os.getuid() == 0 else None,
            memfd=counted,
        )
        return {
            **thread_variables(room.threads),
            VARIABLE: seal.dumps(),
            "PATH": "/opt/python/bin",
            "PYTHONHOME": "/opt/python",
            "PYTHONPATH": "/opt:/opt/site",
            "LD_LIBRARY_PATH": "/opt/lib",
            "HOME": "/tmp",
            "USER": "nobody",
            "LANG": "C.UTF-8",
        }


def _parents(targets: list[str]) -> list[str]:
    """Every folder above a target, outermost first; bubblewrap makes them unreadable by itself."""
    folders = {str(parent) for target in targets for parent in Path(target).parents}
    return sorted(folders - {"/"})


def probe() -> str:
    """Try whether jails can be made here; says what they offer.

    Raises:
        MissingError: they cannot; says why and what to do.
    """
    program = shutil.which("bwrap")
    if program is None:
        raise MissingError(f"bubblewrap is not installed: {REMEDY}")
    line = [program, "--unshare-all", "--die-with-parent", "--ro-bind", "/", "/"]
    line += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "true"]
    try:
        done = subprocess.run(line, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MissingError(f"bubblewrap does not run: {error}") from error
    if done.returncode:
        said = done.stderr.strip()[-300:]
        raise MissingError(f"bubblewrap cannot make a jail here ({said}): {REMEDY}")
    needs.find()
    if cgroup.find() is None:
        return "no network, no host files; memory and processes limited without a control group"
    return "no network, no host files; memory and processes limited by a control group"
