"""From rows to the values that the ledger gives out."""

from collections.abc import Mapping, Sequence
from typing import cast

from pydantic import TypeAdapter

from nightlab.memory.records import (
    JSON,
    Arm,
    Artifact,
    Campaign,
    CampaignStatus,
    Decision,
    Estimate,
    Experiment,
    StoredProgram,
    Trial,
    TrialStatus,
)
from nightlab.memory.tables import (
    CampaignRow,
    DecisionRow,
    ExperimentRow,
    MeasurementRow,
    ProgramRow,
    RunRow,
    TrialRow,
)
from nightlab.vocabulary import (
    Ending,
    Integrity,
    Measurement,
    Objective,
    Program,
    Purpose,
    Run,
    Tier,
    Verdict,
)

OBJECTIVE = TypeAdapter(Objective)


def objective_json(objective: Objective) -> object:
    """An Objective as a JSON column holds it."""
    return OBJECTIVE.dump_python(objective, mode="json")


def texts(column: object) -> tuple[str, ...]:
    """A JSON list of text."""
    return tuple(str(item) for item in cast(Sequence[object], column))


def mapping(column: object) -> Mapping[str, JSON]:
    """A JSON object."""
    return cast(Mapping[str, JSON], column)


def metrics(column: object) -> dict[str, float]:
    """Metric name to number; null, which stands for a number that was not finite, is NaN."""
    found = cast(Mapping[str, float | None], column)
    return {name: float("nan") if value is None else value for name, value in found.items()}


def campaign(row: CampaignRow) -> Campaign:
    """The value of a campaign's row."""
    return Campaign(
        id=row.id,
        goal=row.goal,
        objective=OBJECTIVE.validate_python(row.objective),
        task=row.task,
        tier=row.tier,
        proposer=row.proposer,
        seed=row.seed,
        workers=row.workers,
        settings=mapping(row.settings),
        status=CampaignStatus(row.status),
        reason=row.reason,
        incumbent=row.incumbent_id,
        created=row.created,
        finished=row.finished,
    )


def program(row: ProgramRow) -> StoredProgram:
    """The value of a program's row."""
    files = cast(Mapping[str, str], row.files)
    return StoredProgram(
        program=Program(files=dict(files)),
        id=row.id,
        tree_hash=row.tree_hash,
        parent=row.parent_id,
        origin=row.origin,
    )


def estimate(row: ExperimentRow) -> Estimate:
    """The statistics in an experiment's row."""
    return Estimate(
        gain=row.gain,
        gain_low=row.gain_low,
        gain_high=row.gain_high,
        pairs=row.pairs,
        rung=row.rung,
        against=row.against_id,
        alpha_spent=row.alpha_spent,
        holdout=row.holdout,
        holdout_gain=row.holdout_gain,
        holdout_low=row.holdout_low,
        holdout_high=row.holdout_high,
    )


def experiment(row: ExperimentRow) -> Experiment:
    """The value of an experiment's row."""
    return Experiment(
        id=row.id,
        campaign=row.campaign_id,
        number=row.number,
        parent=row.parent_id,
        program=row.program_id,
        author=row.author,
        operator=row.operator,
        part=row.part,
        hypothesis=row.hypothesis,
        edits=texts(row.edits),
        lines_added=row.lines_added,
        lines_removed=row.lines_removed,
        verdict=Verdict(row.verdict) if row.verdict else None,
        reason=row.reason,
        estimate=estimate(row),
        created=row.created,
        concluded=row.concluded,
    )


def run(row: RunRow) -> Run:
    """The value of a run's row; its output files are artifacts by now."""
    return Run(
        ending=Ending(row.ending),
        tier=Tier(row.tier),
        exit_code=row.exit_code,
        wall_seconds=row.wall_seconds,
        cpu_seconds=row.cpu_seconds,
        peak_memory_bytes=row.peak_memory_bytes,
        startup_seconds=row.startup_seconds,
        log=row.log,
        reason=row.reason,
        image=row.image,
    )


def artifacts(row: RunRow) -> dict[str, Artifact]:
    """File name to stored content."""
    found = cast(Mapping[str, Mapping[str, str | int]], row.artifacts)
    return {
        name: Artifact(sha256=str(file["sha256"]), bytes=int(file["bytes"]))
        for name, file in found.items()
    }


def measurement(row: MeasurementRow) -> Measurement:
    """The value of a measurement's row."""
    return Measurement(
        metrics=metrics(row.metrics),
        integrity=Integrity(row.integrity),
        reasons=texts(row.reasons),
        scoring_seconds=row.scoring_seconds,
    )


def trial(
    row: TrialRow,
    ran: RunRow | None = None,
    search: MeasurementRow | None = None,
    holdout: MeasurementRow | None = None,
) -> Trial:
    """The value of a trial's row with its last run and its measurements."""
    return Trial(
        id=row.id,
        campaign=row.campaign_id,
        experiment=row.experiment_id,
        program=row.program_id,
        rung=row.rung,
        seed=row.seed,
        purpose=Purpose(row.purpose),
        arm=Arm(row.arm),
        status=TrialStatus(row.status),
        attempt=row.attempt,
        token=row.token,
        started=row.started,
        finished=row.finished,
        total_seconds=row.total_seconds,
        run=run(ran) if ran else None,
        measurement=measurement(search) if search else None,
        holdout=measurement(holdout) if holdout else None,
        artifacts=artifacts(ran) if ran else {},
    )


def decision(row: DecisionRow) -> Decision:
    """The value of a decision's row."""
    return Decision(
        head=row.head,
        action=row.action,
        features=cast(JSON, row.features),
        mask=cast(JSON, row.mask),
        distribution=cast(JSON, row.distribution),
        policy=row.policy,
        version=row.version,
        propensity=row.propensity,
        seed=row.seed,
    )
