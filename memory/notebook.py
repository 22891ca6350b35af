"""What surrounds the trials: the log, lessons, directives, and calls of language models."""

from collections.abc import Sequence

from sqlmodel import col, select

from nightlab.errors import UsageError
from nightlab.memory import values
from nightlab.memory.campaigns import Chapter
from nightlab.memory.records import Call, Directive, Event, Lesson
from nightlab.memory.tables import CallRow, DirectiveRow, EventRow, LessonRow


class Notebook(Chapter):
    """Write and read notes of every kind."""

    def log(self, campaign: str, kind: str, message: str, *, experiment: str | None = None) -> None:
        """Add one line to the log that the person reads."""
        with self.database.writing("writing the log") as session:
            self._note(session, campaign, kind, message, experiment)

    def events(self, campaign: str, *, after: int = 0, limit: int | None = None) -> list[Event]:
        """The newest ``limit`` lines of the log with ids above ``after``, oldest first."""
        wanted = select(EventRow).where(EventRow.campaign_id == campaign, col(EventRow.id) > after)
        wanted = wanted.order_by(col(EventRow.id).desc()).limit(limit)
        with self.database.reading("reading the log") as session:
            self._campaign(session, campaign)
            return [_event(row) for row in reversed(session.exec(wanted).all())]

    def add_lesson(self, campaign: str, text: str, experiments: Sequence[str] = ()) -> Lesson:
        """Keep a note of the agent's with the experiments that support it."""
        with self.database.writing("keeping a lesson") as session:
            row = LessonRow(
                campaign_id=campaign,
                text=text,
                experiments=list(experiments),
                written=self.clock(),
            )
            session.add(row)
            session.flush()
        return _lesson(row)

    def lessons(self, campaign: str | None = None) -> list[Lesson]:
        """Lessons of one campaign, or of all, oldest first."""
        wanted = select(LessonRow).order_by(col(LessonRow.id))
        if campaign is not None:
            wanted = wanted.where(LessonRow.campaign_id == campaign)
        with self.database.reading("reading lessons") as session:
            return [_lesson(row) for row in session.exec(wanted)]

    def add_directive(self, campaign: str, text: str, *, kind: str = "note") -> Directive:
        """Keep a person's wish until the supervisor takes it up."""
        with self.database.writing("keeping a directive") as session:
            self._campaign(session, campaign)
            row = DirectiveRow(campaign_id=campaign, kind=kind, text=text, written=self.clock())
            session.add(row)
            session.flush()
            self._note(session, campaign, "directive", f"{kind}: {text}")
        return _directive(row)

    def directives(self, campaign: str, *, unseen: bool = False) -> list[Directive]:
        """Directives, oldest first; with ``unseen`` only those nobody took up."""
        wanted = select(DirectiveRow).where(DirectiveRow.campaign_id == campaign)
        if unseen:
            wanted = wanted.where(col(DirectiveRow.seen).is_(None))
        with self.database.reading("reading directives") as session:
            rows = session.exec(wanted.order_by(col(DirectiveRow.id)))
            return [_directive(row) for row in rows]

    def mark_seen(self, directive: int) -> None:
        """Say that the supervisor took it up; the first time stands."""
        with self.database.writing("marking a directive") as session:
            row = session.get(DirectiveRow, directive)
            if row is None:
                raise UsageError(f"there is no directive {directive}")
            row.seen = row.seen or self.clock()

    def record_call(self, campaign: str, call: Call, *, experiment: str | None = None) -> None:
        """Store one question to a language model and what it cost."""
        with self.database.writing("recording a call") as session:
            session.add(
                CallRow(
                    campaign_id=campaign,
                    experiment_id=experiment,
                    created=self.clock(),
                    **vars(call),
                )
            )

    def calls(self, campaign: str, *, experiment: str | None = None) -> list[Call]:
        """Calls of a campaign or of one experiment, oldest first."""
        wanted = select(CallRow).where(CallRow.campaign_id == campaign)
        if experiment is not None:
            wanted = wanted.where(CallRow.experiment_id == experiment)
        with self.database.reading("reading calls") as session:
            return [_call(row) for row in session.exec(wanted.order_by(col(CallRow.id)))]


def _event(row: EventRow) -> Event:
    return Event(
        id=row.id or 0,
        time=row.time,
        campaign=row.campaign_id,
        experiment=row.experiment_id,
        kind=row.kind,
        message=row.message,
    )


def _lesson(row: LessonRow) -> Lesson:
    return Lesson(
        id=row.id or 0,
        campaign=row.campaign_id,
        text=row.text,
        experiments=values.texts(row.experiments),
        written=row.written,
    )


def _directive(row: DirectiveRow) -> Directive:
    return Directive(
        id=row.id or 0,
        campaign=row.campaign_id,
        kind=row.kind,
        text=row.text,
        written=row.written,
        seen=row.seen,
    )


def _call(row: CallRow) -> Call:
    return Call(
        model=row.model,
        prompt=row.prompt,
        reply=row.reply,
        tokens_in=row.tokens_in,
        tokens_out=row.tokens_out,
        latency_seconds=row.latency_seconds,
        usd=row.usd,
        error=row.error,
    )
