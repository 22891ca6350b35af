"""Experiments: begun, proposed, decided, concluded. Every step may be repeated after a crash."""

from collections.abc import Sequence
from dataclasses import asdict

import sqlalchemy as sa
from sqlmodel import Session, col, select

from nightlab.errors import LedgerError
from nightlab.memory import values
from nightlab.memory.campaigns import Chapter
from nightlab.memory.records import Decision, Estimate, Experiment, Lease
from nightlab.memory.tables import DecisionRow, ExperimentRow
from nightlab.vocabulary import Verdict


class Experiments(Chapter):
    """Write experiments."""

    def begin_experiment(self, lease: Lease) -> Experiment:
        """The campaign's next experiment: ``c1-0`` (the baseline), then ``c1-1``, ..."""
        with self.database.writing("beginning an experiment") as session:
            campaign = self._fence(session, lease)
            highest = session.exec(
                select(sa.func.max(ExperimentRow.number)).where(
                    ExperimentRow.campaign_id == campaign.id
                )
            ).one()
            number = 0 if highest is None else highest + 1
            row = ExperimentRow(
                id=f"{campaign.id}-{number}",
                campaign_id=campaign.id,
                number=number,
                edits=[],
                created=self.clock(),
            )
            session.add(row)
        return values.experiment(row)

    def set_proposal(
        self,
        experiment: str,
        *,
        program: str,
        parent: str | None,
        author: str,
        operator: str = "",
        part: str = "",
        hypothesis: str = "",
        edits: Sequence[str] = (),
        lines_added: int = 0,
        lines_removed: int = 0,
    ) -> Experiment:
        """Say what the experiment tries. ``parent`` is an experiment id, ``program`` a stored one.

        Raises LedgerError once the experiment is concluded.
        """
        with self.database.writing("recording a proposal") as session:
            row = self._open(session, experiment)
            row.program_id, row.parent_id = program, parent
            row.author, row.operator, row.part = author, operator, part
            row.hypothesis, row.edits = hypothesis, list(edits)
            row.lines_added, row.lines_removed = lines_added, lines_removed
        return values.experiment(row)

    def record_decision(self, experiment: str, decision: Decision) -> Decision:
        """Store one action of the policy; the first under a head stands, and is returned."""
        return self.record_decisions(experiment, [decision])[0]

    def record_decisions(self, experiment: str, decisions: Sequence[Decision]) -> list[Decision]:
        """Store the heads of one action together: all of them, or none after a crash."""
        with self.database.writing("recording a decision") as session:
            self._experiment(session, experiment)
            rows = []
            for decision in decisions:
                row = session.get(DecisionRow, (experiment, decision.head))
                if row is None:
                    made = self.clock()
                    row = DecisionRow(experiment_id=experiment, created=made, **vars(decision))
                    session.add(row)
                rows.append(row)
            return [values.decision(row) for row in rows]

    def decisions(self, experiment: str) -> list[Decision]:
        """The decisions behind one experiment, in the order they were taken."""
        with self.database.reading("reading decisions") as session:
            taken = select(DecisionRow).where(DecisionRow.experiment_id == experiment)
            rows = session.exec(taken.order_by(col(DecisionRow.created), col(DecisionRow.head)))
            return [values.decision(row) for row in rows]

    def conclude_experiment(
        self,
        lease: Lease,
        experiment: str,
        verdict: Verdict,
        reason: str,
        estimate: Estimate | None = None,
        *,
        incumbent: bool = False,
    ) -> Experiment:
        """Record the verdict, its numbers and the log line in one transaction.

        Repeating it is harmless: the first conclusion stands and is returned. Only ``screened``
        may be concluded once more, by a confirmation. With ``incumbent`` the program also
        becomes the one to beat. Raises LedgerError for a second, different verdict.
        """
        with self.database.writing("concluding an experiment") as session:
            campaign = self._fence(session, lease)
            row = self._experiment(session, experiment)
            if row.verdict == verdict:
                return values.experiment(row)
            if row.verdict not in {None, Verdict.SCREENED}:
                raise LedgerError(f"{experiment} is concluded as {row.verdict}, not {verdict}")
            row.verdict, row.reason, row.concluded = verdict.value, reason, self.clock()
            if estimate is not None:
                _set_estimate(row, estimate)
            if incumbent:
                campaign.incumbent_id = experiment
            self._note(session, campaign.id, verdict, reason, experiment)
        return values.experiment(row)

    def _open(self, session: Session, experiment: str) -> ExperimentRow:
        row = self._experiment(session, experiment)
        if row.verdict is not None:
            raise LedgerError(f"{experiment} is concluded already ({row.verdict})")
        return row


def _set_estimate(row: ExperimentRow, estimate: Estimate) -> None:
    numbers = asdict(estimate)
    row.against_id = numbers.pop("against")
    for name, number in numbers.items():
        setattr(row, name, number)
