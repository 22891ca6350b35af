"""Campaigns, who may change them, and their programs."""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlmodel import Session, col, select

from nightlab.errors import LedgerError, UsageError
from nightlab.memory import values
from nightlab.memory.database import Database
from nightlab.memory.records import JSON, Campaign, CampaignStatus, Lease, StoredProgram
from nightlab.memory.tables import CampaignRow, EventRow, ExperimentRow, LeaseRow, ProgramRow
from nightlab.vocabulary import Objective, Program


class Chapter:
    """What every part of the ledger shares: the database and a clock."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self.database = database
        self.clock = clock

    def _campaign(self, session: Session, campaign: str) -> CampaignRow:
        row = session.get(CampaignRow, campaign)
        if row is None:
            newest = select(CampaignRow.id).order_by(col(CampaignRow.number).desc()).limit(8)
            raise UsageError(f"there is no campaign {campaign!r}; {_known(session, newest)}")
        return row

    def _experiment(self, session: Session, experiment: str) -> ExperimentRow:
        row = session.get(ExperimentRow, experiment)
        if row is None:
            owner = self._campaign(session, experiment.rpartition("-")[0] or experiment)
            newest = (
                select(ExperimentRow.id)
                .where(ExperimentRow.campaign_id == owner.id)
                .order_by(col(ExperimentRow.number).desc())
                .limit(8)
            )
            raise UsageError(f"there is no experiment {experiment!r}; {_known(session, newest)}")
        return row

    def _fence(self, session: Session, lease: Lease) -> CampaignRow:
        """The campaign, if the lease is still the newest one; else the write comes too late."""
        campaign = self._campaign(session, lease.campaign)
        holder = _holder(session, lease.campaign)
        if holder is None or holder.token != lease.token:
            who = "nobody" if holder is None else f"{holder.owner} (lease {holder.token})"
            raise LedgerError(
                f"{lease.owner} no longer holds campaign {lease.campaign} "
                f"(lease {lease.token}): {who} does"
            )
        return campaign

    def _note(
        self, session: Session, campaign: str, kind: str, text: str, experiment: str | None = None
    ) -> None:
        session.add(
            EventRow(
                time=self.clock(),
                campaign_id=campaign,
                experiment_id=experiment,
                kind=kind,
                message=text,
            )
        )


class Campaigns(Chapter):
    """Begin, hold, finish and read campaigns."""

    def create_campaign(
        self,
        goal: str,
        objective: Objective,
        *,
        task: str,
        tier: str,
        proposer: str,
        seed: int,
        workers: int = 1,
        settings: Mapping[str, JSON] | None = None,
    ) -> Campaign:
        """A new campaign with the next id: ``c1``, ``c2``, ..."""
        with self.database.writing("creating a campaign") as session:
            highest = session.exec(select(sa.func.max(CampaignRow.number))).one()
            number = (highest or 0) + 1
            row = CampaignRow(
                id=f"c{number}",
                number=number,
                goal=goal,
                objective=values.objective_json(objective),
                task=task,
                tier=tier,
                proposer=proposer,
                seed=seed,
                workers=workers,
                settings=settings or {},
                status=CampaignStatus.RUNNING,
                created=self.clock(),
            )
            session.add(row)
            session.flush()
            self._note(session, row.id, "campaign", f"created: {goal}")
        return values.campaign(row)

    def campaign(self, campaign: str) -> Campaign:
        """One campaign. Raises UsageError that lists the known ones."""
        with self.database.reading("reading a campaign") as session:
            return values.campaign(self._campaign(session, campaign))

    def campaigns(self) -> list[Campaign]:
        """All campaigns, oldest first."""
        with self.database.reading("reading the campaigns") as session:
            rows = session.exec(select(CampaignRow).order_by(col(CampaignRow.number)))
            return [values.campaign(row) for row in rows]

    def acquire_lease(self, campaign: str, owner: str, *, seconds: float) -> Lease:
        """Become the campaign's only supervisor and set it running.

        Raises UsageError that says who holds it and until when.
        """
        at = self.clock()
        with self.database.writing("taking a campaign") as session:
            row = self._campaign(session, campaign)
            holder = _holder(session, campaign)
            if holder and holder.released is None and holder.until > at:
                raise UsageError(
                    f"campaign {campaign} is held by {holder.owner} until "
                    f"{holder.until:%Y-%m-%d %H:%M:%S} UTC: stop it first "
                    f"(nightlab stop {campaign}), or wait until its lease lapses"
                )
            token = (holder.token if holder else 0) + 1
            until = at + timedelta(seconds=seconds)
            session.add(
                LeaseRow(
                    campaign_id=campaign,
                    token=token,
                    owner=owner,
                    acquired=at,
                    renewed=at,
                    until=until,
                )
            )
            row.status, row.reason, row.finished = CampaignStatus.RUNNING.value, "", None
            self._note(session, campaign, "lease", f"held by {owner} (lease {token})")
        return Lease(campaign=campaign, owner=owner, token=token, until=until)

    def renew_lease(self, lease: Lease, *, seconds: float) -> Lease:
        """Hold on for so many seconds from now. Raises LedgerError once another holds it."""
        at = self.clock()
        until = at + timedelta(seconds=seconds)
        with self.database.writing("renewing a lease") as session:
            self._fence(session, lease)
            row = session.get_one(LeaseRow, (lease.campaign, lease.token))
            row.renewed, row.until, row.released = at, until, None
        return Lease(campaign=lease.campaign, owner=lease.owner, token=lease.token, until=until)

    def release_lease(self, lease: Lease) -> None:
        """Let go. Harmless to repeat, and when another holds the campaign by now."""
        with self.database.writing("releasing a lease") as session:
            row = session.get(LeaseRow, (lease.campaign, lease.token))
            if row and row.released is None:
                row.released = self.clock()

    def holder(self, campaign: str) -> Lease | None:
        """Who holds the campaign now; None when nobody does."""
        with self.database.reading("reading a lease") as session:
            row = _holder(session, self._campaign(session, campaign).id)
            if row is None or row.released is not None or row.until <= self.clock():
                return None
            return Lease(campaign=campaign, owner=row.owner, token=row.token, until=row.until)

    def finish_campaign(self, lease: Lease, status: CampaignStatus, reason: str) -> Campaign:
        """Set how the campaign ended, in words; the lease stays until it is released."""
        with self.database.writing("finishing a campaign") as session:
            row = self._fence(session, lease)
            row.status, row.reason, row.finished = status.value, reason, self.clock()
            self._note(session, row.id, "campaign", f"{status}: {reason}")
        return values.campaign(row)

    def set_incumbent(self, lease: Lease, experiment: str) -> None:
        """Make an experiment's program the one to beat."""
        with self.database.writing("setting the incumbent") as session:
            campaign = self._fence(session, lease)
            row = self._experiment(session, experiment)
            if row.campaign_id != campaign.id or row.program_id is None:
                raise LedgerError(f"{experiment} is no incumbent for campaign {campaign.id}")
            campaign.incumbent_id = experiment

    def put_program(
        self,
        program: Program,
        *,
        tree_hash: str,
        parent: str | None = None,
        origin: str,
    ) -> StoredProgram:
        """Store a program once; a program that is known keeps its first parent and origin."""
        with self.database.writing("storing a program") as session:
            row = session.get(ProgramRow, program.id)
            if row is None:
                row = ProgramRow(
                    id=program.id,
                    tree_hash=tree_hash,
                    parent_id=parent,
                    origin=origin,
                    files=program.files,
                    created=self.clock(),
                )
                session.add(row)
        return values.program(row)

    def program(self, program: str) -> StoredProgram:
        """One program by its id."""
        with self.database.reading("reading a program") as session:
            row = session.get(ProgramRow, program)
            if row is None:
                raise UsageError(f"there is no program {program!r} in the ledger")
            return values.program(row)


def _holder(session: Session, campaign: str) -> LeaseRow | None:
    newest = select(LeaseRow).where(LeaseRow.campaign_id == campaign)
    return session.exec(newest.order_by(col(LeaseRow.token).desc()).limit(1)).first()


def _known(session: Session, newest: sa.Executable) -> str:
    ids = [str(row[0]) for row in session.execute(newest)]
    return f"there are {', '.join(reversed(ids))}" if ids else "none exists yet"
