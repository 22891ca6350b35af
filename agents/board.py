"""What is going on right now, for whoever watches: no part of the ledger, lost at the end."""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Activity:
    """What one experiment is doing."""

    doing: str
    edits: str = ""
    progress: float | None = None
    """Self-reported fraction of the current training run."""
    since: float = 0.0
    """Host clock, monotonic seconds."""


@dataclass
class Board:
    """Activities by experiment, written by workers and read by the screen."""

    stage: str = "starting"
    _activities: dict[str, Activity] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def show(self, experiment: str, doing: str, edits: str | None = None) -> None:
        """Say what an experiment does from now on; its edits stay until they are given anew."""
        with self._lock:
            known = self._activities.get(experiment)
            kept = edits if edits is not None else known.edits if known else ""
            self._activities[experiment] = Activity(doing, kept, None, time.monotonic())

    def progress(self, experiment: str, fraction: float) -> None:
        """How far the current training run of an experiment says it is."""
        with self._lock:
            if known := self._activities.get(experiment):
                clamped = min(1.0, max(0.0, fraction))
                self._activities[experiment] = Activity(
                    known.doing, known.edits, clamped, known.since
                )

    def clear(self, experiment: str) -> None:
        """Forget an experiment that has ended."""
        with self._lock:
            self._activities.pop(experiment, None)

    def activities(self) -> Mapping[str, Activity]:
        """A copy for drawing."""
        with self._lock:
            return dict(self._activities)
