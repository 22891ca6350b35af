"""Questions about single experiments, their descent, and what can be learned from all."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from sqlmodel import Session, col, select

from nightlab.memory import values
from nightlab.memory.campaigns import Chapter
from nightlab.memory.records import Decision, Episode, Experiment
from nightlab.memory.tables import CampaignRow, DecisionRow, ExperimentRow, ProgramRow

BATCH = 500
"""Rows that an iterator holds at a time."""


class History(Chapter):
    """Read what happened."""

    def experiment(self, experiment: str) -> Experiment:
        """One experiment. Raises UsageError that lists the known ones."""
        with self.database.reading("reading an experiment") as session:
            return values.experiment(self._experiment(session, experiment))

    def experiments(self, campaign: str, *, under_way: bool = False) -> list[Experiment]:
        """A campaign's experiments by number; with ``under_way`` those without a verdict."""
        wanted = select(ExperimentRow).where(ExperimentRow.campaign_id == campaign)
        if under_way:
            wanted = wanted.where(col(ExperimentRow.verdict).is_(None))
        with self.database.reading("reading experiments") as session:
            self._campaign(session, campaign)
            rows = session.exec(wanted.order_by(col(ExperimentRow.number)))
            return [values.experiment(row) for row in rows]

    def baseline(self, campaign: str) -> Experiment | None:
        """The campaign's experiment 0; None before it was begun."""
        with self.database.reading("reading the baseline") as session:
            row = session.get(ExperimentRow, f"{self._campaign(session, campaign).id}-0")
            return values.experiment(row) if row else None

    def lineage(self, experiment: str) -> list[Experiment]:
        """The experiment's line of descent, the baseline first and itself last."""
        with self.database.reading("reading a lineage") as session:
            row = self._experiment(session, experiment)
            line = [row]
            while row.parent_id is not None:
                row = self._experiment(session, row.parent_id)
                line.append(row)
            return [values.experiment(row) for row in reversed(line)]

    def seen(self, campaign: str, tree_hash: str) -> str | None:
        """The first experiment of the campaign that tried a program with this syntax tree."""
        wanted = (
            select(ExperimentRow.id)
            .join(ProgramRow, col(ProgramRow.id) == col(ExperimentRow.program_id))
            .where(ExperimentRow.campaign_id == campaign, ProgramRow.tree_hash == tree_hash)
            .order_by(col(ExperimentRow.number))
        )
        with self.database.reading("looking for a duplicate") as session:
            return session.exec(wanted.limit(1)).first()

    def episodes(self, *, task: str | None = None) -> Iterator[Episode]:
        """Concluded experiments that have decisions, across campaigns, oldest first."""
        wanted = (
            select(ExperimentRow)
            .join(CampaignRow, col(CampaignRow.id) == col(ExperimentRow.campaign_id))
            .where(col(ExperimentRow.verdict).is_not(None))
            .order_by(col(CampaignRow.number), col(ExperimentRow.number))
        )
        if task is not None:
            wanted = wanted.where(CampaignRow.task == task)
        with self.database.reading("reading episodes") as session:
            for rows in session.exec(wanted).partitions(BATCH):
                decided = _decisions(session, [row.id for row in rows])
                for row in rows:
                    if row.id in decided:
                        experiment = values.experiment(row)
                        yield Episode(experiment=experiment, decisions=tuple(decided[row.id]))


def _decisions(session: Session, experiments: Sequence[str]) -> dict[str, list[Decision]]:
    wanted = select(DecisionRow).where(col(DecisionRow.experiment_id).in_(experiments))
    found: dict[str, list[Decision]] = defaultdict(list)
    for row in session.exec(wanted.order_by(col(DecisionRow.created), col(DecisionRow.head))):
        found[row.experiment_id].append(values.decision(row))
    return found
