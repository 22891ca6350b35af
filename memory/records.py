"""What the ledger gives out: frozen values, never rows or sessions.

Ids are short text for people: campaign ``c1``, experiment ``c1-7`` (0 is the baseline),
trial ``c1-7/small/1003``. Times are aware and in UTC.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from nightlab.vocabulary import (
    Ending,
    Integrity,
    Measurement,
    Objective,
    Program,
    Purpose,
    Run,
    Verdict,
)

JSON = Mapping[str, "JSON"] | Sequence["JSON"] | str | int | float | bool | None
"""What a JSON column holds. Numbers that are not finite are stored as null."""


CHECKUP = "checkup.json"
"""The file beside a trial whose curve was judged hopeless: what the rule saw. Such a trial ended
``aborted``, or was finished all the same so that the rule can be audited."""


class CampaignStatus(StrEnum):
    """Where a campaign stands."""

    RUNNING = "running"
    FINISHED = "finished"
    """Its budget is spent or its target is met."""
    STOPPED = "stopped"
    """A person or a signal ended it; it can be resumed."""
    FAILED = "failed"
    """Our side broke; the reason says how."""


class Arm(StrEnum):
    """Whose program a trial trains, in the experiment that asked for it."""

    CANDIDATE = "candidate"
    INCUMBENT = "incumbent"
    """The incumbent, re-run because it is challenged."""


class TrialStatus(StrEnum):
    """Where a trial stands."""

    RUNNING = "running"
    FINISHED = "finished"
    """Exactly one final record exists: the program's own success or failure."""
    LOST = "lost"
    """The environment failed; beginning it again makes the next attempt."""


@dataclass(frozen=True, kw_only=True)
class Lease:
    """The right to change one campaign, held by one supervisor at a time."""

    campaign: str
    owner: str
    """Who holds it, in words a person can act on: host and process id."""
    token: int
    """Fencing token: grows with every holder, so that a late write by an old one is refused."""
    until: datetime
    """When it lapses unless renewed."""


@dataclass(frozen=True, kw_only=True)
class Campaign:
    """One goal on one task with one budget."""

    id: str
    goal: str
    """The person's sentence."""
    objective: Objective
    task: str
    tier: str
    proposer: str
    seed: int
    workers: int
    settings: Mapping[str, JSON]
    """What else fixes the outcome: corpus hash, task hash, catalogue version."""
    status: CampaignStatus
    reason: str
    """Why it ended; empty while it runs."""
    incumbent: str | None
    """Experiment whose program is the best confirmed one."""
    created: datetime
    finished: datetime | None


@dataclass(frozen=True, kw_only=True)
class StoredProgram:
    """A program and where it came from."""

    program: Program
    id: str
    tree_hash: str
    """Hash of the normalised syntax tree: equal for programs that differ in layout only."""
    parent: str | None
    """Program id it was edited from."""
    origin: str
    """Who wrote it first: ``baseline``, ``catalogue``, or a model's name."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What the statistics say about one experiment. Gains are positive when better."""

    gain: float | None = None
    """Mean paired improvement over ``against``, in the metric's unit."""
    gain_low: float | None = None
    gain_high: float | None = None
    pairs: int = 0
    """Pairs of seeds behind the gain."""
    rung: str | None = None
    """The rung that the pairs were run on."""
    against: str | None = None
    """Experiment id of the incumbent that was challenged."""
    alpha_spent: float = 0.0
    """Share of the campaign's budget of false keeps used by the test."""
    holdout: float | None = None
    """The candidate's mean on the hold-out split, in the metric's unit."""
    holdout_gain: float | None = None
    holdout_low: float | None = None
    holdout_high: float | None = None


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A proposal, its trials, and its verdict."""

    id: str
    campaign: str
    number: int
    """Within the campaign; 0 is the baseline."""
    parent: str | None
    """Experiment id whose program was edited."""
    program: str | None
    """Program id; None until proposed."""
    author: str
    operator: str
    part: str
    hypothesis: str
    edits: tuple[str, ...]
    """One short line each, such as ``position=rotary``."""
    lines_added: int
    lines_removed: int
    verdict: Verdict | None
    """None while it is under way."""
    reason: str
    estimate: Estimate
    created: datetime
    concluded: datetime | None


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """One stored file, named by its content."""

    sha256: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One program, trained once on one rung with one seed."""

    id: str
    campaign: str
    experiment: str
    program: str
    rung: str
    seed: int
    purpose: Purpose
    arm: Arm
    status: TrialStatus
    attempt: int
    """1 for the first; a later one means that an earlier supervisor died with it."""
    token: int
    """Fencing token of the supervisor that began this attempt."""
    started: datetime
    finished: datetime | None = None
    total_seconds: float | None = None
    """Wall time of the trial as the loop saw it."""
    run: Run | None = None
    """The run's ``outputs`` is None here; see ``artifacts``."""
    measurement: Measurement | None = None
    """On the search split."""
    holdout: Measurement | None = None
    artifacts: Mapping[str, Artifact] = field(default_factory=dict)
    """File name to stored content."""

    @property
    def overhead_seconds(self) -> float | None:
        """What the loop took beside training and scoring."""
        if self.total_seconds is None or self.run is None:
            return None
        scoring = self.measurement.scoring_seconds if self.measurement else 0.0
        return self.total_seconds - self.run.wall_seconds - scoring

    def value(self, metric: str) -> float | None:
        """The metric on the search split; None unless it finished and kept its integrity."""
        usable = self.run is not None and self.run.ending is Ending.FINISHED
        if not usable or self.measurement is None:
            return None
        if self.measurement.integrity is Integrity.TAMPERED:
            return None
        return self.measurement.metrics.get(metric)


@dataclass(frozen=True, kw_only=True)
class Decision:
    """One action of the policy, with everything needed to learn from it later."""

    head: str
    """Which choice it was: ``parent``, ``author``, ``part``, ``variant``, ..."""
    action: str
    features: JSON
    mask: JSON
    distribution: JSON
    """Probability of every action that was open."""
    policy: str
    version: str
    propensity: float
    """Probability of the action that was taken."""
    seed: int


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One experiment with the decisions that led to it."""

    experiment: Experiment
    decisions: tuple[Decision, ...]


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """A note the agent writes for its later self."""

    id: int
    campaign: str
    text: str
    experiments: tuple[str, ...]
    """The evidence."""
    written: datetime


@dataclass(frozen=True, kw_only=True)
class Directive:
    """A note a person writes to steer a campaign."""

    id: int
    campaign: str
    kind: str
    """``note``, ``stop``, or another word the supervisor knows."""
    text: str
    written: datetime
    seen: datetime | None
    """When the supervisor took it up."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """One question to a language model."""

    model: str
    prompt: str
    reply: str
    tokens_in: int
    tokens_out: int
    latency_seconds: float
    usd: float | None
    """None when the price is not known."""
    error: str = ""
    """Failure class in words; empty when the reply was used."""


@dataclass(frozen=True, kw_only=True)
class Spectrum:
    """Advisory spectral diagnostics of one layer at one training step."""

    trial: str
    layer: str
    step: int
    values: Mapping[str, JSON]


@dataclass(frozen=True, kw_only=True)
class Event:
    """One line of the log that the person reads."""

    id: int
    time: datetime
    campaign: str
    experiment: str | None
    kind: str
    message: str


@dataclass(frozen=True, kw_only=True)
class ArchiveEntry:
    """An experiment as a policy sees it when it picks a parent."""

    experiment: Experiment
    tree_hash: str | None
    """Of its program's normalised syntax tree; None when it has no program."""
    visits: int
    """How many experiments took this one as their parent."""
    scores: Mapping[str, float]
    """Rung to the mean of the campaign's metric over the candidate's usable trials."""
    trials: Mapping[str, int]
    """Rung to how many trials are behind that mean."""


@dataclass(frozen=True, kw_only=True)
class Repeat:
    """The campaign's metric on one usable trial that was not picked for its score."""

    trial: str
    program: str
    rung: str
    seed: int
    purpose: Purpose
    arm: Arm
    value: float
    """On the search split."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A run that did not finish by itself."""

    trial: str
    experiment: str
    ending: Ending
    reason: str


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What a campaign has used so far, summed from its rows."""

    trials: int
    """Finished ones."""
    wall_seconds: float
    """Time that a supervisor held the campaign, breaks between resumes left out."""
    cpu_seconds: float
    """Of every attempt, lost ones included."""
    usd: float
    """Of the calls whose price is known."""
    tokens: int
    unpriced_calls: int


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How fast one trial went."""

    wall_per_cpu: float
    """Wall seconds of its run per CPU second: 1 on an idle machine."""
    beside_seconds: float
    """Wall seconds of everything beside the run: the sandbox, scoring, storing."""


@dataclass(frozen=True, kw_only=True)
class Dot:
    """One trial on the best-so-far curve."""

    trial: str
    experiment: str
    rung: str
    purpose: Purpose
    arm: Arm
    minutes: float
    """Since the campaign was created."""
    value: float | None
    """The campaign's metric on the search split; None where the trial has no usable score."""
    verdict: Verdict | None
    """Of the experiment."""


class Order(StrEnum):
    """How a page of experiments is sorted."""

    NUMBER = "number"
    GAIN = "gain"
    """By the lower end of the gain's interval: one lucky pair ranks below three good ones."""
    VERDICT = "verdict"
    AUTHOR = "author"
    OPERATOR = "operator"
    PART = "part"


@dataclass(frozen=True, kw_only=True)
class Page:
    """Some experiments out of all that match."""

    experiments: tuple[ArchiveEntry, ...]
    matching: int
