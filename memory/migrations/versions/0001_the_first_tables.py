"""The first tables."""

import sqlalchemy as sa
from alembic import op

from nightlab.memory.tables import UtcDateTime

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create every table, parents before children."""
    _campaigns()
    _programs_and_experiments()
    _trials()
    _notes()


def _text(name: str, *, null: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.String(), nullable=null)


def _whole(name: str, *, null: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.Integer(), nullable=null)


def _large(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=False)


def _real(name: str, *, null: bool = False) -> sa.Column[float]:
    return sa.Column(name, sa.Float(), nullable=null)


def _json(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.JSON(), nullable=False)


def _time(name: str, *, null: bool = False) -> sa.Column[object]:
    return sa.Column(name, UtcDateTime(), nullable=null)


def _key(table: str, *columns: str) -> sa.PrimaryKeyConstraint:
    return sa.PrimaryKeyConstraint(*columns, name=op.f(f"pk_{table}"))


def _refers(table: str, column: str, to: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], [f"{to}.id"], name=op.f(f"fk_{table}_{column}"))


def _one_of(table: str, column: str, *words: str) -> sa.CheckConstraint:
    listed = ", ".join(f"'{word}'" for word in words)
    return sa.CheckConstraint(f"{column} IN ({listed})", name=op.f(f"ck_{table}_{column}"))


def _index(table: str, *columns: str) -> None:
    op.create_index(op.f(f"ix_{table}_{'_'.join(columns)}"), table, list(columns))


def _campaigns() -> None:
    op.create_table(
        "campaigns",
        _text("id"),
        _whole("number"),
        _text("goal"),
        _json("objective"),
        _text("task"),
        _text("tier"),
        _text("proposer"),
        _large("seed"),
        _whole("workers"),
        _json("settings"),
        _text("status"),
        _text("reason"),
        _text("incumbent_id", null=True),
        _time("created"),
        _time("finished", null=True),
        _one_of("campaigns", "status", "running", "finished", "stopped", "failed"),
        _key("campaigns", "id"),
        sa.UniqueConstraint("number", name=op.f("uq_campaigns_number")),
    )
    op.create_table(
        "leases",
        _text("campaign_id"),
        _whole("token"),
        _text("owner"),
        _time("acquired"),
        _time("renewed"),
        _time("until"),
        _time("released", null=True),
        _refers("leases", "campaign_id", "campaigns"),
        _key("leases", "campaign_id", "token"),
    )


def _programs_and_experiments() -> None:
    op.create_table(
        "programs",
        _text("id"),
        _text("tree_hash"),
        _text("parent_id", null=True),
        _text("origin"),
        _json("files"),
        _time("created"),
        _refers("programs", "parent_id", "programs"),
        _key("programs", "id"),
    )
    _index("programs", "tree_hash")
    op.create_table("experiments", *_proposal(), *_conclusion(), *_experiment_rules())
    for columns in (["parent_id"], ["program_id"]):
        _index("experiments", *columns)
    _index("experiments", "campaign_id", "verdict")
    _index("experiments", "campaign_id", "gain")
    op.create_table(
        "decisions",
        _text("experiment_id"),
        _text("head"),
        _text("action"),
        _json("features"),
        _json("mask"),
        _json("distribution"),
        _text("policy"),
        _text("version"),
        _real("propensity"),
        _large("seed"),
        _time("created"),
        _refers("decisions", "experiment_id", "experiments"),
        _key("decisions", "experiment_id", "head"),
    )


def _proposal() -> list[sa.Column[str] | sa.Column[int] | sa.Column[object]]:
    return [
        _text("id"),
        _text("campaign_id"),
        _whole("number"),
        _text("parent_id", null=True),
        _text("program_id", null=True),
        _text("author"),
        _text("operator"),
        _text("part"),
        _text("hypothesis"),
        _json("edits"),
        _whole("lines_added"),
        _whole("lines_removed"),
    ]


def _conclusion() -> list[sa.Column[str] | sa.Column[int] | sa.Column[float] | sa.Column[object]]:
    return [
        _text("verdict", null=True),
        _text("reason"),
        _real("gain", null=True),
        _real("gain_low", null=True),
        _real("gain_high", null=True),
        _whole("pairs"),
        _text("rung", null=True),
        _text("against_id", null=True),
        _real("alpha_spent"),
        _real("holdout", null=True),
        _real("holdout_gain", null=True),
        _real("holdout_low", null=True),
        _real("holdout_high", null=True),
        _time("created"),
        _time("concluded", null=True),
    ]


def _experiment_rules() -> list[sa.Constraint]:
    verdicts = ("invalid", "failed", "discarded", "screened", "confirmed", "rejected")
    return [
        _refers("experiments", "campaign_id", "campaigns"),
        _refers("experiments", "parent_id", "experiments"),
        _refers("experiments", "program_id", "programs"),
        _refers("experiments", "against_id", "experiments"),
        _one_of("experiments", "verdict", *verdicts),
        _key("experiments", "id"),
        sa.UniqueConstraint(
            "campaign_id", "number", name=op.f("uq_experiments_campaign_id_number")
        ),
    ]


def _trials() -> None:
    key = ("experiment_id", "rung", "seed", "purpose", "arm")
    op.create_table(
        "trials",
        _text("id"),
        _text("campaign_id"),
        _text("experiment_id"),
        _text("program_id"),
        _text("rung"),
        _large("seed"),
        _text("purpose"),
        _text("arm"),
        _text("status"),
        _whole("attempt"),
        _whole("token"),
        _time("started"),
        _time("finished", null=True),
        _real("total_seconds", null=True),
        _refers("trials", "campaign_id", "campaigns"),
        _refers("trials", "experiment_id", "experiments"),
        _refers("trials", "program_id", "programs"),
        _one_of("trials", "purpose", "noise", "screen", "confirm", "audit"),
        _one_of("trials", "arm", "candidate", "incumbent"),
        _one_of("trials", "status", "running", "finished", "lost"),
        _key("trials", "id"),
        sa.UniqueConstraint(*key, name=op.f(f"uq_trials_{'_'.join(key)}")),
    )
    _index("trials", "campaign_id", "status")
    _index("trials", "campaign_id", "purpose")
    _index("trials", "program_id")
    _runs()
    _measurements()


def _measurements() -> None:
    op.create_table(
        "measurements",
        _text("trial_id"),
        _text("split"),
        _json("metrics"),
        _text("integrity"),
        _json("reasons"),
        _real("scoring_seconds"),
        _time("created"),
        _refers("measurements", "trial_id", "trials"),
        _one_of("measurements", "split", "train", "search", "holdout"),
        _one_of("measurements", "integrity", "clean", "suspect", "tampered"),
        _key("measurements", "trial_id", "split"),
    )
    op.create_table(
        "spectra",
        _text("trial_id"),
        _text("layer"),
        _whole("step"),
        _json("values"),
        _refers("spectra", "trial_id", "trials"),
        _key("spectra", "trial_id", "layer", "step"),
    )


def _runs() -> None:
    ours = ("finished", "aborted", "lost")
    theirs = ("crashed", "out of memory", "timeout", "too many processes")
    outputs = ("no output", "bad output")
    op.create_table(
        "runs",
        _text("trial_id"),
        _whole("attempt"),
        _text("ending"),
        _text("tier"),
        _whole("exit_code", null=True),
        _real("wall_seconds"),
        _real("cpu_seconds"),
        _large("peak_memory_bytes"),
        _real("startup_seconds"),
        _text("log"),
        _text("reason"),
        _text("image"),
        _json("artifacts"),
        _refers("runs", "trial_id", "trials"),
        _one_of("runs", "ending", *ours, *theirs, *outputs),
        _one_of("runs", "tier", "docker+runsc", "docker", "bwrap", "process"),
        _key("runs", "trial_id", "attempt"),
    )


def _notes() -> None:
    op.create_table(
        "lessons",
        _whole("id"),
        _text("campaign_id"),
        _text("text"),
        _json("experiments"),
        _time("written"),
        _refers("lessons", "campaign_id", "campaigns"),
        _key("lessons", "id"),
    )
    op.create_table(
        "directives",
        _whole("id"),
        _text("campaign_id"),
        _text("kind"),
        _text("text"),
        _time("written"),
        _time("seen", null=True),
        _refers("directives", "campaign_id", "campaigns"),
        _key("directives", "id"),
    )
    _calls_and_events()
    for table in ("lessons", "directives", "calls"):
        _index(table, "campaign_id")
    _index("calls", "experiment_id")
    _index("events", "campaign_id", "id")


def _calls_and_events() -> None:
    op.create_table(
        "calls",
        _whole("id"),
        _text("campaign_id"),
        _text("experiment_id", null=True),
        _text("model"),
        _text("prompt"),
        _text("reply"),
        _whole("tokens_in"),
        _whole("tokens_out"),
        _real("latency_seconds"),
        _real("usd", null=True),
        _text("error"),
        _time("created"),
        _refers("calls", "campaign_id", "campaigns"),
        _refers("calls", "experiment_id", "experiments"),
        _key("calls", "id"),
    )
    op.create_table(
        "events",
        _whole("id"),
        _time("time"),
        _text("campaign_id"),
        _text("experiment_id", null=True),
        _text("kind"),
        _text("message"),
        _refers("events", "campaign_id", "campaigns"),
        _refers("events", "experiment_id", "experiments"),
        _key("events", "id"),
    )
