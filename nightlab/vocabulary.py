"""The words every folder shares (the design's section 1), as frozen values.

Anything that two folders need and neither owns is a noun in this module.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal


class Direction(StrEnum):
    """Which way a metric is better."""

    LOWER = "lower"
    HIGHER = "higher"

    @property
    def sign(self) -> int:
        """+1 where higher is better, -1 where lower is better."""
        return 1 if self is Direction.HIGHER else -1


class Tier(StrEnum):
    """How strongly a sandbox isolates, strongest first."""

    DOCKER_RUNSC = "docker+runsc"
    DOCKER = "docker"
    BWRAP = "bwrap"
    PROCESS = "process"


class Ending(StrEnum):
    """How a run ended, seen from outside."""

    FINISHED = "finished"
    """It exited by itself with status 0 and left every expected output."""
    CRASHED = "crashed"
    """It raised, or died by a signal that we did not send."""
    OUT_OF_MEMORY = "out of memory"
    TIMEOUT = "timeout"
    """It passed its wall or CPU deadline and was killed."""
    TOO_MANY_PROCESSES = "too many processes"
    NO_OUTPUT = "no output"
    BAD_OUTPUT = "bad output"
    """An output was not a plain, whole, well-formed file within its cap."""
    ABORTED = "aborted"
    """We stopped it early because its curve could not win."""
    LOST = "lost"
    """The environment failed (engine gone, disk full): never the program's fault."""


class Verdict(StrEnum):
    """What an experiment came to."""

    INVALID = "invalid"
    """Refused before training: does not parse, build, stay causal, or is a duplicate."""
    FAILED = "failed"
    """Crashed, ran out of memory or time, or left no usable output."""
    DISCARDED = "discarded"
    """Trained and measured, and not better than the incumbent."""
    SCREENED = "screened"
    """Better on a low rung, not (yet) confirmed."""
    CONFIRMED = "confirmed"
    """Better on fresh paired seeds by the sequential test, hold-out looked at once."""
    REJECTED = "rejected"
    """An integrity probe failed: its score enters nothing."""


class Integrity(StrEnum):
    """What the probes say about a measurement."""

    CLEAN = "clean"
    SUSPECT = "suspect"
    """A tell-tale worth a person's look; does not change the score."""
    TAMPERED = "tampered"
    """A probe failed; the trial is worth a penalty and nothing else."""


class Purpose(StrEnum):
    """Why a trial was run."""

    NOISE = "noise"
    SCREEN = "screen"
    CONFIRM = "confirm"
    AUDIT = "audit"


class Beginning(StrEnum):
    """What a campaign's policy knows before its first decision."""

    WARM = "warm"
    """What the newest campaign on this machine learned, else the weights that ship."""
    COLD = "cold"
    """Nothing: it learns from its own campaign only."""
    BANDIT = "bandit"
    """Nothing, and it never learns: PUCT and Thompson sampling."""


class Split(StrEnum):
    """The three parts of a task's data; only ``train`` is ever mounted in a sandbox."""

    TRAIN = "train"
    SEARCH = "search"
    HOLDOUT = "holdout"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one run may use before the sandbox ends it."""

    cpu_seconds: float
    """CPU time of the whole process tree from the moment the job is sent, seen from outside."""
    wall_seconds: float
    """Host clock from the moment the job is sent."""
    memory_bytes: int = 4 << 30
    processes: int = 64
    """Processes and threads together."""
    output_bytes: int = 256 << 20
    """All files of the output folder together."""
    threads: int = 1
    """CPU cores the run may use."""


@dataclass(frozen=True)
class Program:
    """The text of a task's editable files."""

    files: Mapping[str, str]
    """File name (no folders) to source text."""

    @property
    def id(self) -> str:
        """Content hash, the program's identity: 16 hex digits."""
        digest = hashlib.sha256()
        for name in sorted(self.files):
            for part in (name, self.files[name]):
                digest.update(len(part.encode()).to_bytes(8, "big") + part.encode())
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Constraint:
    """``metric op value``: an absolute bound, or one relative to the baseline."""

    metric: str
    op: Literal["<=", ">="]
    value: float
    """In the metric's unit, or a factor of the baseline's value when ``relative``."""
    relative: bool = False

    def bound(self, baseline: float) -> float:
        """The bound in the metric's unit."""
        return self.value * baseline if self.relative else self.value

    def holds(self, measured: float, baseline: float) -> bool:
        """Whether a measured value respects the bound (up to rounding in the last digits)."""
        bound = self.bound(baseline)
        slack = 1e-9 * max(1.0, abs(bound))
        return measured <= bound + slack if self.op == "<=" else measured >= bound - slack

    def __str__(self) -> str:
        value = f"{self.value:g} x baseline" if self.relative else f"{self.value:g}"
        return f"{self.metric} {self.op} {value}"


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a campaign may spend; the first bound that is reached ends it."""

    trials: int | None = None
    seconds: float | None = None
    usd: float | None = None
    tokens: int | None = None
    gpu_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Objective:
    """A goal as the lab understood it."""

    metric: str
    direction: Direction
    target_percent: float | None = None
    """Improvement over the baseline at which the goal counts as met."""
    target_value: float | None = None
    """Absolute value at which the goal counts as met."""
    constraints: tuple[Constraint, ...] = ()
    budget: Budget = field(default_factory=Budget)

    @property
    def metrics(self) -> frozenset[str]:
        """Every metric that it names."""
        return frozenset({self.metric, *(bound.metric for bound in self.constraints)})


@dataclass(frozen=True)
class Rung:
    """A budget level of a task."""

    name: str
    cpu_seconds: float
    """Training budget of one trial, in CPU seconds of one thread (the trainer's loop only)."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a sandbox returns. A program's crash is data, not an exception."""

    ending: Ending
    tier: Tier
    exit_code: int | None = None
    wall_seconds: float = 0.0
    """Host clock from job sent to whole tree dead."""
    cpu_seconds: float = 0.0
    """CPU time of the whole tree from job sent to end, seen from outside."""
    peak_memory_bytes: int = 0
    startup_seconds: float = 0.0
    """What the caller waited for the sandbox to be ready; 0 when it was warm."""
    log: str = ""
    """Tail of what it printed: self-reported, never rewarded."""
    outputs: Path | None = None
    """Folder with the collected files; None unless the ending is ``finished``."""
    reason: str = ""
    """One line for people on why it ended so."""
    image: str = ""
    """Image id, for container tiers."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What trusted code says about one trial."""

    metrics: Mapping[str, float]
    integrity: Integrity = Integrity.CLEAN
    reasons: tuple[str, ...] = ()
    """Which probes failed or raised suspicion, in words."""
    scoring_seconds: float = 0.0
    """Wall time the scorer took, without waiting for a sandbox."""
