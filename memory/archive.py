"""Experiments with what a policy or a screen needs beside them."""

from collections.abc import Sequence

import sqlalchemy as sa
from sqlmodel import Session, col

from nightlab.memory import values
from nightlab.memory.campaigns import Chapter
from nightlab.memory.records import ArchiveEntry, Order, Page
from nightlab.memory.scores import Score, scores
from nightlab.memory.tables import ExperimentRow, ProgramRow
from nightlab.vocabulary import Verdict

Entries = sa.Select[ExperimentRow, str | None]


class Archive(Chapter):
    """Read experiments by the hundred, in a fixed number of queries."""

    def archive(self, campaign: str) -> list[ArchiveEntry]:
        """Every experiment with a program, by number, with all that a policy needs."""
        wanted = _entries(campaign).where(col(ExperimentRow.program_id).is_not(None))
        with self.database.reading("reading the archive") as session:
            metric = self._metric(session, campaign)
            return _read(session, wanted.order_by(col(ExperimentRow.number)), metric, campaign)

    def page(
        self,
        campaign: str,
        *,
        verdicts: Sequence[Verdict] = (),
        text: str = "",
        order: Order = Order.NUMBER,
        descending: bool = True,
        limit: int = 50,
        offset: int = 0,
    ) -> Page:
        """Some experiments that match, filtered and sorted by the database; nulls come last.

        ``text`` is looked for in the hypothesis, the operator, the part, the author and the
        reason, without regard to case.
        """
        wanted = _matching(_entries(campaign), verdicts, text)
        name = "gain_low" if order is Order.GAIN else order.value
        column = col(getattr(ExperimentRow, name))
        by = column.desc().nulls_last() if descending else column.asc().nulls_last()
        some = wanted.order_by(by, col(ExperimentRow.number).desc()).limit(limit).offset(offset)
        with self.database.reading("reading a page of experiments") as session:
            metric = self._metric(session, campaign)
            whole = wanted.with_only_columns(sa.func.count())
            matching = int(session.execute(whole).scalar_one())
            found = _read(session, some, metric, campaign, paged=True)
        return Page(experiments=tuple(found), matching=matching)

    def _metric(self, session: Session, campaign: str) -> str:
        return values.campaign(self._campaign(session, campaign)).objective.metric


def _entries(campaign: str) -> Entries:
    return (
        sa.select(ExperimentRow, col(ProgramRow.tree_hash))
        .outerjoin(ProgramRow, col(ProgramRow.id) == col(ExperimentRow.program_id))
        .where(col(ExperimentRow.campaign_id) == campaign)
    )


def _matching(wanted: Entries, verdicts: Sequence[Verdict], text: str) -> Entries:
    if verdicts:
        words = [verdict.value for verdict in verdicts]
        wanted = wanted.where(col(ExperimentRow.verdict).in_(words))
    if text:
        row = ExperimentRow
        searched = (row.hypothesis, row.operator, row.part, row.author, row.reason)
        found = [col(column).icontains(text, autoescape=True) for column in searched]
        wanted = wanted.where(sa.or_(*found))
    return wanted


def _read(
    session: Session, wanted: Entries, metric: str, campaign: str, *, paged: bool = False
) -> list[ArchiveEntry]:
    rows = session.execute(wanted).all()
    ids = [row[0].id for row in rows] if paged else None
    visits = _visits(session, campaign, ids)
    scored = scores(session, metric, campaign, ids)
    return [
        _entry(row, tree_hash, visits.get(row.id, 0), scored.get(row.id, {}))
        for row, tree_hash in rows
    ]


def _entry(
    row: ExperimentRow, tree_hash: str | None, visits: int, scored: dict[str, Score]
) -> ArchiveEntry:
    return ArchiveEntry(
        experiment=values.experiment(row),
        tree_hash=tree_hash,
        visits=visits,
        scores={rung: score.mean for rung, score in scored.items()},
        trials={rung: score.trials for rung, score in scored.items()},
    )


def _visits(session: Session, campaign: str, parents: Sequence[str] | None) -> dict[str, int]:
    parent = col(ExperimentRow.parent_id)
    wanted = sa.select(parent, sa.func.count()).where(
        col(ExperimentRow.campaign_id) == campaign, parent.is_not(None)
    )
    if parents is not None:
        wanted = wanted.where(parent.in_(parents))
    return {str(row[0]): int(row[1]) for row in session.execute(wanted.group_by(parent))}
