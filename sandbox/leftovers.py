"""What supervisors that were killed leave on this host, and its removal.

Folders and control groups are named after the process that made them and its process namespace,
so that only those of a process that is certainly gone are touched.
"""

import contextlib
import os
import re
import shutil
import tempfile
from pathlib import Path

import psutil

NAME = re.compile(r"nightlab-[a-z]+-(\d+)-(\d+)-.*")


def stem(kind: str) -> str:
    """The beginning of every name of ours on this host, for one kind of thing."""
    return f"nightlab-{kind}-{_namespace()}-{os.getpid()}-"


def _namespace() -> int:
    with contextlib.suppress(OSError):
        return os.stat("/proc/self/ns/pid").st_ino
    return 0


def make_home(kind: str) -> Path:
    """A folder for this process's cells; those of dead processes are swept away first."""
    sweep_folders(Path(tempfile.gettempdir()))
    return Path(tempfile.mkdtemp(prefix=stem(kind)))


def abandoned(name: str) -> bool:
    """Whether a name is of something that nobody can own any more."""
    match = NAME.fullmatch(name)
    if match is None or int(match[1]) != _namespace():
        return False
    return not psutil.pid_exists(int(match[2]))


def sweep_folders(parent: Path) -> list[str]:
    """Remove abandoned folders below ``parent``; returns their names."""
    gone = [entry.name for entry in os.scandir(parent) if abandoned(entry.name)]
    for name in gone:
        shutil.rmtree(parent / name, ignore_errors=True)
    return gone
