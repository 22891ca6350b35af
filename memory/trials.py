"""Trials: begun once per key, finished once, and never lost.

The key is (experiment, rung, seed, purpose, arm). A finished trial is returned as it is, so a
graph node that runs again does not train again. An unfinished one is a dead supervisor's or a
failed try's: beginning it makes the next attempt, and only the newest attempt may finish.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime

import sqlalchemy as sa
from sqlmodel import Session, col, select

from nightlab.errors import LedgerError, UsageError
from nightlab.memory import values
from nightlab.memory.campaigns import Chapter
from nightlab.memory.records import (
    CHECKUP,
    Arm,
    Artifact,
    Lease,
    Spectrum,
    Trial,
    TrialStatus,
)
from nightlab.memory.tables import MeasurementRow, RunRow, SpectrumRow, TrialRow
from nightlab.vocabulary import Ending, Measurement, Purpose, Run, Split

LOG_CHARACTERS = 8_000
"""How much of a run's printed tail the ledger keeps."""


def trial_id(experiment: str, rung: str, seed: int, purpose: Purpose, arm: Arm) -> str:
    """``c1-7/small/1003``, with the purpose and the arm where they are not the usual ones."""
    unusual = [str(purpose)] if purpose is not Purpose.SCREEN else []
    unusual += [str(arm)] if arm is not Arm.CANDIDATE else []
    return "/".join([experiment, rung, str(seed), *unusual])


class Trials(Chapter):
    """Write trials and what was measured on them."""

    def begin_trial(
        self,
        lease: Lease,
        experiment: str,
        program: str,
        *,
        rung: str,
        seed: int,
        purpose: Purpose,
        arm: Arm = Arm.CANDIDATE,
    ) -> Trial:
        """The trial under this key: where it is ``finished`` it has its run, else train it."""
        name = trial_id(experiment, rung, seed, purpose, arm)
        with self.database.writing("beginning a trial") as session:
            self._fence(session, lease)
            row = session.get(TrialRow, name)
            if row is None:
                self._experiment(session, experiment)
                row = TrialRow(
                    id=name,
                    campaign_id=lease.campaign,
                    experiment_id=experiment,
                    program_id=program,
                    rung=rung,
                    seed=seed,
                    purpose=purpose.value,
                    arm=arm.value,
                    status=TrialStatus.RUNNING.value,
                    attempt=0,
                    token=lease.token,
                    started=self.clock(),
                )
            if row.status == TrialStatus.FINISHED:
                return _whole(session, [row])[0]
            if row.program_id != program:
                raise LedgerError(f"trial {name} belongs to program {row.program_id}")
            session.add(_begun(row, lease, self.clock()))
        return values.trial(row)

    def finish_trial(
        self,
        trial: Trial,
        run: Run,
        measurement: Measurement | None,
        *,
        total_seconds: float,
        artifacts: Mapping[str, Artifact] | None = None,
    ) -> Trial:
        """Store how it ended, in one transaction, if ``trial`` is still the newest attempt.

        ``total_seconds`` is the trial's wall time as the loop saw it. A run that was ``lost`` is
        no result: its trial may be begun again. Raises LedgerError for a late duplicate.
        """
        lost = run.ending is Ending.LOST
        status = TrialStatus.LOST if lost else TrialStatus.FINISHED
        with self.database.writing("finishing a trial") as session:
            lease = Lease(
                campaign=trial.campaign,
                owner="a late result",
                token=trial.token,
                until=self.clock(),
            )
            self._fence(session, lease)
            self._swap(session, trial, status, total_seconds)
            session.add(_run_row(trial, run, artifacts or {}))
            if measurement is not None and not lost:
                session.add(_measured(trial.id, Split.SEARCH, measurement, self))
            session.flush()
            row = session.get_one(TrialRow, trial.id)
            session.refresh(row)
            return _whole(session, [row])[0]

    def record_holdout(self, trial: str, measurement: Measurement) -> Measurement:
        """Store one look at the hold-out split; the first look stands, and is returned."""
        with self.database.writing("recording a hold-out look") as session:
            row = session.get(MeasurementRow, (trial, Split.HOLDOUT.value))
            if row is None:
                row = _measured(trial, Split.HOLDOUT, measurement, self)
                session.add(row)
        return values.measurement(row)

    def record_spectra(self, spectra: Sequence[Spectrum]) -> None:
        """Store spectra; one (trial, layer, step) that is known is replaced."""
        with self.database.writing("recording spectra") as session:
            for spectrum in spectra:
                session.merge(
                    SpectrumRow(
                        trial_id=spectrum.trial,
                        layer=spectrum.layer,
                        step=spectrum.step,
                        values=spectrum.values,
                    )
                )

    def spectra(self, trial: str, layer: str | None = None) -> list[Spectrum]:
        """A trial's spectra by layer and step, or those of one layer."""
        with self.database.reading("reading spectra") as session:
            of_trial = select(SpectrumRow).where(SpectrumRow.trial_id == trial)
            if layer is not None:
                of_trial = of_trial.where(SpectrumRow.layer == layer)
            rows = session.exec(of_trial.order_by(col(SpectrumRow.layer), col(SpectrumRow.step)))
            return [
                Spectrum(
                    trial=row.trial_id,
                    layer=row.layer,
                    step=row.step,
                    values=values.mapping(row.values),
                )
                for row in rows
            ]

    def trial(self, trial: str) -> Trial:
        """One trial by its id."""
        with self.database.reading("reading a trial") as session:
            row = session.get(TrialRow, trial)
            if row is None:
                raise UsageError(f"there is no trial {trial!r} in the ledger")
            return _whole(session, [row])[0]

    def trials(
        self,
        *,
        campaign: str | None = None,
        experiment: str | None = None,
        rung: str | None = None,
        seed: int | None = None,
    ) -> list[Trial]:
        """Trials of a campaign or an experiment, all or some, in the order they were begun."""
        wanted = select(TrialRow).order_by(col(TrialRow.started), col(TrialRow.id))
        if campaign is not None:
            wanted = wanted.where(TrialRow.campaign_id == campaign)
        if experiment is not None:
            wanted = wanted.where(TrialRow.experiment_id == experiment)
        if rung is not None:
            wanted = wanted.where(TrialRow.rung == rung)
        if seed is not None:
            wanted = wanted.where(TrialRow.seed == seed)
        with self.database.reading("reading trials") as session:
            return _whole(session, session.exec(wanted).all())

    def judged_hopeless(self, campaign: str) -> list[Trial]:
        """Trials that were ended early on their curve, and those finished as an audit of that."""
        files = sa.cast(col(RunRow.artifacts), sa.String)
        wanted = (
            select(TrialRow)
            .join(RunRow, col(RunRow.trial_id) == col(TrialRow.id))
            .where(
                TrialRow.campaign_id == campaign,
                TrialRow.status == TrialStatus.FINISHED.value,
                RunRow.attempt == TrialRow.attempt,
                files.contains(f'"{CHECKUP}"'),
            )
            .order_by(col(TrialRow.id))
        )
        with self.database.reading("reading early aborts") as session:
            return _whole(session, session.exec(wanted).all())

    def abandoned_trials(self, lease: Lease) -> list[Trial]:
        """Trials that an earlier supervisor began and never finished."""
        wanted = select(TrialRow).where(
            TrialRow.campaign_id == lease.campaign,
            TrialRow.status == TrialStatus.RUNNING.value,
            TrialRow.token < lease.token,
        )
        with self.database.reading("reading abandoned trials") as session:
            return _whole(session, session.exec(wanted.order_by(col(TrialRow.id))).all())

    def _swap(
        self, session: Session, trial: Trial, status: TrialStatus, total_seconds: float
    ) -> None:
        """Compare and swap: only the running, newest attempt of this holder changes."""
        done = session.execute(
            sa.update(TrialRow)
            .where(
                col(TrialRow.id) == trial.id,
                col(TrialRow.status) == TrialStatus.RUNNING.value,
                col(TrialRow.attempt) == trial.attempt,
                col(TrialRow.token) == trial.token,
            )
            .values(status=status.value, finished=self.clock(), total_seconds=total_seconds)
        )
        if getattr(done, "rowcount", 0) != 1:
            raise LedgerError(
                f"attempt {trial.attempt} of trial {trial.id} comes too late: "
                "it is finished or was begun again"
            )


def _begun(row: TrialRow, lease: Lease, at: datetime) -> TrialRow:
    row.attempt += 1
    row.status, row.token = TrialStatus.RUNNING.value, lease.token
    row.started, row.finished, row.total_seconds = at, None, None
    return row


def _run_row(trial: Trial, run: Run, artifacts: Mapping[str, Artifact]) -> RunRow:
    return RunRow(
        trial_id=trial.id,
        attempt=trial.attempt,
        ending=run.ending.value,
        tier=run.tier.value,
        exit_code=run.exit_code,
        wall_seconds=run.wall_seconds,
        cpu_seconds=run.cpu_seconds,
        peak_memory_bytes=run.peak_memory_bytes,
        startup_seconds=run.startup_seconds,
        log=run.log.replace("\x00", "\N{REPLACEMENT CHARACTER}")[-LOG_CHARACTERS:],
        reason=run.reason,
        image=run.image,
        artifacts={name: asdict(file) for name, file in artifacts.items()},
    )


def _measured(
    trial: str, split: Split, measurement: Measurement, chapter: Chapter
) -> MeasurementRow:
    return MeasurementRow(
        trial_id=trial,
        split=split.value,
        metrics=measurement.metrics,
        integrity=measurement.integrity.value,
        reasons=measurement.reasons,
        scoring_seconds=measurement.scoring_seconds,
        created=chapter.clock(),
    )


def _whole(session: Session, rows: Sequence[TrialRow]) -> list[Trial]:
    """Trials with their newest run and their measurements, in three queries for any number."""
    runs: dict[str, RunRow] = {}
    measured: dict[tuple[str, str], MeasurementRow] = {}
    for start in range(0, len(rows), 500):
        ids = [row.id for row in rows[start : start + 500]]
        attempts = select(RunRow).where(col(RunRow.trial_id).in_(ids))
        runs |= {run.trial_id: run for run in session.exec(attempts.order_by(col(RunRow.attempt)))}
        found = select(MeasurementRow).where(col(MeasurementRow.trial_id).in_(ids))
        measured |= {(row.trial_id, row.split): row for row in session.exec(found)}
    return [
        values.trial(
            row,
            runs.get(row.id) if row.status != TrialStatus.RUNNING else None,
            measured.get((row.id, Split.SEARCH.value)),
            measured.get((row.id, Split.HOLDOUT.value)),
        )
        for row in rows
    ]
