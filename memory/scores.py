"""The campaign's metric over trials, as the database computes it."""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import sqlalchemy as sa
from sqlmodel import Session, col

from nightlab.memory.records import Arm
from nightlab.memory.tables import MeasurementRow, RunRow, TrialRow
from nightlab.vocabulary import Ending, Integrity, Split


class Score(NamedTuple):
    """An experiment's metric on one rung."""

    mean: float
    trials: int


def value_of(metric: str) -> sa.ColumnElement[float | None]:
    """The metric on the search split of the joined trial; null unless usable.

    Usable: the newest attempt finished, and no integrity probe failed.
    """
    number = col(MeasurementRow.metrics)[metric].as_float()
    usable = sa.and_(
        col(RunRow.ending) == Ending.FINISHED.value,
        col(MeasurementRow.integrity) != Integrity.TAMPERED.value,
    )
    return sa.case((usable, number), else_=sa.null())


def measured() -> sa.Join:
    """Trials with the run of their newest attempt and their search measurement, if any."""
    newest = sa.and_(
        col(RunRow.trial_id) == col(TrialRow.id), col(RunRow.attempt) == col(TrialRow.attempt)
    )
    on_search = sa.and_(
        col(MeasurementRow.trial_id) == col(TrialRow.id),
        col(MeasurementRow.split) == Split.SEARCH.value,
    )
    trials = sa.inspect(TrialRow).local_table
    runs = sa.inspect(RunRow).local_table
    measurements = sa.inspect(MeasurementRow).local_table
    return trials.outerjoin(runs, newest).outerjoin(measurements, on_search)


def scores(
    session: Session, metric: str, campaign: str, experiments: Sequence[str] | None = None
) -> dict[str, dict[str, Score]]:
    """Experiment to rung to the candidate arm's score, in one query."""
    value = value_of(metric)
    wanted = (
        sa.select(
            col(TrialRow.experiment_id),
            col(TrialRow.rung),
            sa.func.avg(value),
            sa.func.count(value),
        )
        .select_from(measured())
        .where(col(TrialRow.campaign_id) == campaign, col(TrialRow.arm) == Arm.CANDIDATE.value)
        .group_by(col(TrialRow.experiment_id), col(TrialRow.rung))
    )
    if experiments is not None:
        wanted = wanted.where(col(TrialRow.experiment_id).in_(experiments))
    found: dict[str, dict[str, Score]] = defaultdict(dict)
    for experiment, rung, mean, trials in session.execute(wanted):
        if trials:
            found[experiment][rung] = Score(float(mean), int(trials))
    return found
