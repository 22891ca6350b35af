"""The tables. Nothing outside ``nightlab.memory`` sees a row.

Columns that hold a word of the vocabulary are text with a CHECK, so that a file stays
readable by any tool; times are UTC.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum

import sqlalchemy as sa
from sqlmodel import Field, SQLModel

from nightlab.memory.records import Arm, CampaignStatus, TrialStatus
from nightlab.vocabulary import Ending, Integrity, Purpose, Split, Tier, Verdict

SQLModel.metadata.naming_convention = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


class UtcDateTime(sa.types.TypeDecorator[datetime]):
    """An aware UTC time on every engine; a naive one is refused."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """UTC on the way in; SQLite keeps the digits only."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time in the ledger needs a time zone")
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """Aware on the way out."""
        if value is None or dialect.name != "sqlite":
            return value.astimezone(UTC) if value else None
        return value.replace(tzinfo=UTC)


def one_of(column: str, words: Iterable[StrEnum]) -> sa.CheckConstraint:
    """A CHECK that a column holds one of the vocabulary's words (or null)."""
    listed = ", ".join(f"'{word.value}'" for word in words)
    return sa.CheckConstraint(f"{column} IN ({listed})", name=column)


class CampaignRow(SQLModel, table=True):
    """One goal on one task with one budget."""

    __tablename__ = "campaigns"
    __table_args__ = (one_of("status", CampaignStatus),)

    id: str = Field(primary_key=True)
    number: int = Field(unique=True)
    goal: str
    objective: object = Field(sa_type=sa.JSON)
    task: str
    tier: str
    proposer: str
    seed: int = Field(sa_type=sa.BigInteger)
    workers: int
    settings: object = Field(sa_type=sa.JSON)
    status: str
    reason: str = ""
    incumbent_id: str | None = None
    created: datetime = Field(sa_type=UtcDateTime)
    finished: datetime | None = Field(default=None, sa_type=UtcDateTime)


class LeaseRow(SQLModel, table=True):
    """Every supervisor that ever held a campaign; the highest token is the current one."""

    __tablename__ = "leases"

    campaign_id: str = Field(primary_key=True, foreign_key="campaigns.id")
    token: int = Field(primary_key=True)
    owner: str
    acquired: datetime = Field(sa_type=UtcDateTime)
    renewed: datetime = Field(sa_type=UtcDateTime)
    until: datetime = Field(sa_type=UtcDateTime)
    released: datetime | None = Field(default=None, sa_type=UtcDateTime)


class ProgramRow(SQLModel, table=True):
    """A program's text, once, by content hash."""

    __tablename__ = "programs"

    id: str = Field(primary_key=True)
    tree_hash: str = Field(index=True)
    parent_id: str | None = Field(default=None, foreign_key="programs.id")
    origin: str
    files: object = Field(sa_type=sa.JSON)
    created: datetime = Field(sa_type=UtcDateTime)


class ExperimentRow(SQLModel, table=True):
    """A proposal and its verdict."""

    __tablename__ = "experiments"
    __table_args__ = (
        sa.UniqueConstraint("campaign_id", "number"),
        sa.Index(None, "campaign_id", "verdict"),
        sa.Index(None, "campaign_id", "gain"),
        one_of("verdict", Verdict),
    )

    id: str = Field(primary_key=True)
    campaign_id: str = Field(foreign_key="campaigns.id")
    number: int
    parent_id: str | None = Field(default=None, foreign_key="experiments.id", index=True)
    program_id: str | None = Field(default=None, foreign_key="programs.id", index=True)
    author: str = ""
    operator: str = ""
    part: str = ""
    hypothesis: str = ""
    edits: object = Field(sa_type=sa.JSON)
    lines_added: int = 0
    lines_removed: int = 0
    verdict: str | None = None
    reason: str = ""
    gain: float | None = None
    gain_low: float | None = None
    gain_high: float | None = None
    pairs: int = 0
    rung: str | None = None
    against_id: str | None = Field(default=None, foreign_key="experiments.id")
    alpha_spent: float = 0.0
    holdout: float | None = None
    holdout_gain: float | None = None
    holdout_low: float | None = None
    holdout_high: float | None = None
    created: datetime = Field(sa_type=UtcDateTime)
    concluded: datetime | None = Field(default=None, sa_type=UtcDateTime)


class TrialRow(SQLModel, table=True):
    """One program, one rung, one seed."""

    __tablename__ = "trials"
    __table_args__ = (
        sa.UniqueConstraint("experiment_id", "rung", "seed", "purpose", "arm"),
        sa.Index(None, "campaign_id", "status"),
        sa.Index(None, "campaign_id", "purpose"),
        one_of("purpose", Purpose),
        one_of("arm", Arm),
        one_of("status", TrialStatus),
    )

    id: str = Field(primary_key=True)
    campaign_id: str = Field(foreign_key="campaigns.id")
    experiment_id: str = Field(foreign_key="experiments.id")
    program_id: str = Field(foreign_key="programs.id", index=True)
    rung: str
    seed: int = Field(sa_type=sa.BigInteger)
    purpose: str
    arm: str
    status: str
    attempt: int
    token: int
    started: datetime = Field(sa_type=UtcDateTime)
    finished: datetime | None = Field(default=None, sa_type=UtcDateTime)
    total_seconds: float | None = None


class RunRow(SQLModel, table=True):
    """What the sandbox returned for one attempt."""

    __tablename__ = "runs"
    __table_args__ = (one_of("ending", Ending), one_of("tier", Tier))

    trial_id: str = Field(primary_key=True, foreign_key="trials.id")
    attempt: int = Field(primary_key=True)
    ending: str
    tier: str
    exit_code: int | None = None
    wall_seconds: float
    cpu_seconds: float
    peak_memory_bytes: int = Field(sa_type=sa.BigInteger)
    startup_seconds: float
    log: str
    reason: str
    image: str
    artifacts: object = Field(sa_type=sa.JSON)


class MeasurementRow(SQLModel, table=True):
    """What trusted code measured on one split; a hold-out row is one look."""

    __tablename__ = "measurements"
    __table_args__ = (one_of("split", Split), one_of("integrity", Integrity))

    trial_id: str = Field(primary_key=True, foreign_key="trials.id")
    split: str = Field(primary_key=True)
    metrics: object = Field(sa_type=sa.JSON)
    integrity: str
    reasons: object = Field(sa_type=sa.JSON)
    scoring_seconds: float
    created: datetime = Field(sa_type=UtcDateTime)


class DecisionRow(SQLModel, table=True):
    """One action of the policy with its whole context."""

    __tablename__ = "decisions"

    experiment_id: str = Field(primary_key=True, foreign_key="experiments.id")
    head: str = Field(primary_key=True)
    action: str
    features: object = Field(sa_type=sa.JSON)
    mask: object = Field(sa_type=sa.JSON)
    distribution: object = Field(sa_type=sa.JSON)
    policy: str
    version: str
    propensity: float
    seed: int = Field(sa_type=sa.BigInteger)
    created: datetime = Field(sa_type=UtcDateTime)


class LessonRow(SQLModel, table=True):
    """A note the agent wrote for its later self."""

    __tablename__ = "lessons"

    id: int | None = Field(default=None, primary_key=True)
    campaign_id: str = Field(foreign_key="campaigns.id", index=True)
    text: str
    experiments: object = Field(sa_type=sa.JSON)
    written: datetime = Field(sa_type=UtcDateTime)


class DirectiveRow(SQLModel, table=True):
    """A note a person wrote to steer a campaign."""

    __tablename__ = "directives"

    id: int | None = Field(default=None, primary_key=True)
    campaign_id: str = Field(foreign_key="campaigns.id", index=True)
    kind: str
    text: str
    written: datetime = Field(sa_type=UtcDateTime)
    seen: datetime | None = Field(default=None, sa_type=UtcDateTime)


class CallRow(SQLModel, table=True):
    """One question to a language model."""

    __tablename__ = "calls"

    id: int | None = Field(default=None, primary_key=True)
    campaign_id: str = Field(foreign_key="campaigns.id", index=True)
    experiment_id: str | None = Field(default=None, foreign_key="experiments.id", index=True)
    model: str
    prompt: str
    reply: str
    tokens_in: int
    tokens_out: int
    latency_seconds: float
    usd: float | None = None
    error: str = ""
    created: datetime = Field(sa_type=UtcDateTime)


class SpectrumRow(SQLModel, table=True):
    """Spectral diagnostics of one layer at one step."""

    __tablename__ = "spectra"

    trial_id: str = Field(primary_key=True, foreign_key="trials.id")
    layer: str = Field(primary_key=True)
    step: int = Field(primary_key=True)
    values: object = Field(sa_type=sa.JSON)


class EventRow(SQLModel, table=True):
    """One line of the log."""

    __tablename__ = "events"
    __table_args__ = (sa.Index(None, "campaign_id", "id"),)

    id: int | None = Field(default=None, primary_key=True)
    time: datetime = Field(sa_type=UtcDateTime)
    campaign_id: str = Field(foreign_key="campaigns.id")
    experiment_id: str | None = Field(default=None, foreign_key="experiments.id")
    kind: str
    message: str
