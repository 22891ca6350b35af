"""Ends what nobody owns any more: containers and volumes of supervisors that died.

It touches only what carries our label, and of that only what is past its deadline or belonged to
a process of this host that is gone.
"""

import contextlib
import hashlib
import os
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import psutil

from nightlab.errors import SandboxError

APP_LABEL, APP = "app", "nightlab"
OWNER_LABEL, DEADLINE_LABEL = "owner", "deadline"
LIFETIME_SECONDS = 12 * 3600
GRACE_SECONDS = 60
EVERY_SECONDS = 60.0


@dataclass(frozen=True)
class Owned:
    """One container or volume with our label."""

    kind: Literal["container", "volume"]
    name: str
    labels: Mapping[str, str]


class Engine(Protocol):
    """What the reaper needs of an engine."""

    def owned(self) -> list[Owned]: ...

    def discard(self, kind: Literal["container", "volume"], name: str) -> None: ...


def owner() -> str:
    """Names this process for as long as the world lasts: host, process, and a hash of its start."""
    return token(os.getpid(), psutil.Process().create_time())


def token(pid: int, start: float) -> str:
    """``host:pid:hash`` of a process; the hash covers the host and the start."""
    host = host_name()
    digest = hashlib.sha256(f"{host}:{pid}:{start:.2f}".encode()).hexdigest()[:10]
    return f"{host}:{pid}:{digest}"


def host_name() -> str:
    return socket.gethostname().replace(":", "-")


def labels(owned_by: str, extra: Mapping[str, str]) -> dict[str, str]:
    """What everything of ours carries; ours win over the caller's."""
    deadline = str(int(time.time() + LIFETIME_SECONDS))
    return {**extra, APP_LABEL: APP, OWNER_LABEL: owned_by, DEADLINE_LABEL: deadline}


def expired(thing: Owned, now: float) -> bool:
    """Whether nobody can want it any more; ``now`` in seconds since the epoch."""
    with contextlib.suppress(ValueError):
        if now > float(thing.labels.get(DEADLINE_LABEL, "inf")) + GRACE_SECONDS:
            return True
    return orphaned(thing.labels.get(OWNER_LABEL, ""))


def orphaned(owned_by: str) -> bool:
    """Whether its owner was a process of this host that is gone; others are not ours to judge."""
    host, _, rest = owned_by.partition(":")
    pid, _, _ = rest.partition(":")
    if host != host_name() or not pid.isdigit():
        return False
    try:
        return token(int(pid), psutil.Process(int(pid)).create_time()) != owned_by
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False


def sweep(engine: Engine, now: float) -> list[str]:
    """Discard what is expired, containers before the volumes they use; returns the names."""
    things = sorted(engine.owned(), key=lambda thing: thing.kind)
    gone = [thing for thing in things if expired(thing, now)]
    for thing in gone:
        engine.discard(thing.kind, thing.name)
    return [thing.name for thing in gone]


class Reaper:
    """Sweeps now and every minute until it is closed."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._stop = threading.Event()
        self._sweep()
        self._thread = threading.Thread(target=self._watch, name="nightlab-reaper", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(EVERY_SECONDS):
            self._sweep()

    def _sweep(self) -> None:
        with contextlib.suppress(SandboxError, OSError):
            sweep(self._engine, time.time())
