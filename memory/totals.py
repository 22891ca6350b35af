"""Counts, sums and curves over a campaign. All are derived by query; nothing is stored twice."""

from datetime import timedelta

import sqlalchemy as sa
from sqlmodel import Session, col, select

from nightlab.memory import values
from nightlab.memory.campaigns import Chapter
from nightlab.memory.records import Arm, Dot, Fault, Pace, Repeat, Spent, TrialStatus
from nightlab.memory.scores import measured, value_of
from nightlab.memory.tables import (
    CallRow,
    ExperimentRow,
    LeaseRow,
    MeasurementRow,
    RunRow,
    TrialRow,
)
from nightlab.vocabulary import Ending, Purpose, Split, Verdict


class Totals(Chapter):
    """Add up what happened."""

    def counts(self, campaign: str) -> dict[Verdict, int]:
        """How many experiments came to each verdict; the baseline is none of them."""
        verdict = col(ExperimentRow.verdict)
        wanted = (
            sa.select(verdict, sa.func.count())
            .where(
                col(ExperimentRow.campaign_id) == campaign,
                verdict.is_not(None),
                col(ExperimentRow.number) > 0,
            )
            .group_by(verdict)
        )
        with self.database.reading("counting verdicts") as session:
            self._campaign(session, campaign)
            found = {str(row[0]): int(row[1]) for row in session.execute(wanted)}
        return {verdict: found.get(verdict, 0) for verdict in Verdict}

    def noise_values(self, campaign: str) -> list[Repeat]:
        """The campaign's metric on every usable noise run, by rung and seed."""
        return [r for r in self.repeats(campaign) if r.purpose is Purpose.NOISE]

    def repeats(self, campaign: str) -> list[Repeat]:
        """Usable noise, confirmation and audit trials of both arms, by rung and seed.

        Their programs were chosen before they ran, so their means carry no selection.
        """
        trial = TrialRow
        columns = [col(trial.id), col(trial.program_id), col(trial.rung), col(trial.seed)]
        with self.database.reading("reading repeated trials") as session:
            value = value_of(values.campaign(self._campaign(session, campaign)).objective.metric)
            wanted = (
                sa.select(*columns, col(trial.purpose), col(trial.arm), value)
                .select_from(measured())
                .where(
                    col(trial.campaign_id) == campaign,
                    col(trial.status) == TrialStatus.FINISHED.value,
                    col(trial.purpose) != Purpose.SCREEN.value,
                    value.is_not(None),
                )
                .order_by(col(trial.rung), col(trial.seed), col(trial.id))
            )
            return [
                Repeat(
                    trial=row[0],
                    program=row[1],
                    rung=row[2],
                    seed=row[3],
                    purpose=Purpose(row[4]),
                    arm=Arm(row[5]),
                    value=row[6],
                )
                for row in session.execute(wanted)
            ]

    def rungs(self, campaign: str) -> list[str]:
        """The rungs that were run, the cheapest first (by mean CPU time of their runs)."""
        cost = sa.func.avg(col(RunRow.cpu_seconds))
        wanted = (
            sa.select(col(TrialRow.rung))
            .join(RunRow, col(RunRow.trial_id) == col(TrialRow.id))
            .where(
                col(TrialRow.campaign_id) == campaign, col(RunRow.ending) == Ending.FINISHED.value
            )
            .group_by(col(TrialRow.rung))
            .order_by(cost)
        )
        with self.database.reading("reading the rungs") as session:
            return [str(row[0]) for row in session.execute(wanted)]

    def images(self, campaign: str) -> list[str]:
        """Ids of the sandbox images that its runs were made in, sorted; none without an engine."""
        image = col(RunRow.image)
        wanted = (
            sa.select(image)
            .distinct()
            .join(TrialRow, col(TrialRow.id) == col(RunRow.trial_id))
            .where(col(TrialRow.campaign_id) == campaign, image != "")
            .order_by(image)
        )
        with self.database.reading("reading images") as session:
            return list(session.execute(wanted).scalars())

    def faults(self, campaign: str) -> list[Fault]:
        """Every attempt that ended in any other way than by finishing, in order of trial id."""
        run = RunRow
        columns = [col(run.trial_id), col(TrialRow.experiment_id), col(run.ending), col(run.reason)]
        wanted = (
            sa.select(*columns)
            .join(TrialRow, col(TrialRow.id) == col(run.trial_id))
            .where(col(TrialRow.campaign_id) == campaign, col(run.ending) != Ending.FINISHED.value)
            .order_by(col(run.trial_id), col(run.attempt))
        )
        with self.database.reading("reading failures") as session:
            return [
                Fault(trial=trial, experiment=experiment, ending=Ending(ending), reason=reason)
                for trial, experiment, ending, reason in session.execute(wanted)
            ]

    def paces(self, campaign: str, last: int) -> list[Pace]:
        """How fast the newest finished trials went, for forecasts; the machine may be busy."""
        wanted = (
            sa.select(
                col(TrialRow.total_seconds), col(RunRow.wall_seconds), col(RunRow.cpu_seconds)
            )
            .join(RunRow, col(RunRow.trial_id) == col(TrialRow.id))
            .where(
                col(TrialRow.campaign_id) == campaign,
                col(TrialRow.status) == TrialStatus.FINISHED.value,
                col(RunRow.ending) == Ending.FINISHED.value,
            )
            .order_by(col(TrialRow.finished).desc())
            .limit(last)
        )
        with self.database.reading("reading how fast trials go") as session:
            return [
                Pace(wall_per_cpu=wall / cpu, beside_seconds=total - wall)
                for total, wall, cpu in session.execute(wanted)
                if total is not None and cpu
            ]

    def dots(self, campaign: str) -> list[Dot]:
        """Every finished trial of the campaign in the order it ended: the best-so-far curve."""
        trial = TrialRow
        names = [col(trial.id), col(trial.experiment_id), col(trial.rung), col(trial.purpose)]
        rest = [col(trial.arm), col(trial.finished), col(ExperimentRow.verdict)]
        with self.database.reading("reading the curve") as session:
            row = self._campaign(session, campaign)
            value = value_of(values.campaign(row).objective.metric)
            wanted = (
                sa.select(*names, *rest, value)
                .select_from(measured())
                .join(ExperimentRow, col(ExperimentRow.id) == col(trial.experiment_id))
                .where(
                    col(trial.campaign_id) == campaign,
                    col(trial.status) == TrialStatus.FINISHED.value,
                )
                .order_by(col(trial.finished), col(trial.id))
            )
            return [
                Dot(
                    trial=found[0],
                    experiment=found[1],
                    rung=found[2],
                    purpose=Purpose(found[3]),
                    arm=Arm(found[4]),
                    minutes=(found[5] - row.created) / timedelta(minutes=1),
                    verdict=Verdict(found[6]) if found[6] else None,
                    value=found[7],
                )
                for found in session.execute(wanted)
            ]

    def spent(self, campaign: str) -> Spent:
        """What the campaign has used so far."""
        trials = sa.select(sa.func.count()).where(
            col(TrialRow.campaign_id) == campaign,
            col(TrialRow.status) == TrialStatus.FINISHED.value,
        )
        cpu = (
            sa.select(sa.func.sum(col(RunRow.cpu_seconds)))
            .join(TrialRow, col(TrialRow.id) == col(RunRow.trial_id))
            .where(col(TrialRow.campaign_id) == campaign)
        )
        calls = sa.select(
            sa.func.sum(col(CallRow.usd)),
            sa.func.sum(col(CallRow.tokens_in) + col(CallRow.tokens_out)),
            sa.func.count() - sa.func.count(col(CallRow.usd)),
        ).where(col(CallRow.campaign_id) == campaign)
        with self.database.reading("adding up what was spent") as session:
            self._campaign(session, campaign)
            usd, tokens, unpriced = session.execute(calls).one()
            return Spent(
                trials=session.execute(trials).scalar_one(),
                wall_seconds=self._held_seconds(session, campaign),
                cpu_seconds=float(session.execute(cpu).scalar_one() or 0.0),
                usd=float(usd or 0.0),
                tokens=int(tokens or 0),
                unpriced_calls=int(unpriced),
            )

    def overheads(self, campaign: str) -> list[float]:
        """Per finished trial, seconds of the loop beside training and scoring."""
        scoring = sa.func.coalesce(col(MeasurementRow.scoring_seconds), 0.0)
        overhead = col(TrialRow.total_seconds) - col(RunRow.wall_seconds) - scoring
        wanted = (
            sa.select(overhead)
            .select_from(measured())
            .where(
                col(TrialRow.campaign_id) == campaign,
                col(TrialRow.status) == TrialStatus.FINISHED.value,
            )
        )
        with self.database.reading("reading the overheads") as session:
            return [float(seconds) for (seconds,) in session.execute(wanted)]

    def scoring_seconds(self, campaign: str, split: Split, last: int) -> list[float]:
        """What the newest measurements on a split took by the clock, for forecasts."""
        wanted = (
            sa.select(col(MeasurementRow.scoring_seconds))
            .join(TrialRow, col(TrialRow.id) == col(MeasurementRow.trial_id))
            .where(
                col(TrialRow.campaign_id) == campaign,
                col(MeasurementRow.split) == split.value,
            )
            .order_by(col(MeasurementRow.created).desc())
            .limit(last)
        )
        with self.database.reading("reading how long scoring takes") as session:
            return [float(seconds) for (seconds,) in session.execute(wanted)]

    def holdout_looks(self, campaign: str) -> int:
        """How many trials were scored on the hold-out split."""
        wanted = (
            sa.select(sa.func.count(col(MeasurementRow.trial_id)))
            .join(TrialRow, col(TrialRow.id) == col(MeasurementRow.trial_id))
            .where(
                col(TrialRow.campaign_id) == campaign,
                col(MeasurementRow.split) == Split.HOLDOUT.value,
            )
        )
        with self.database.reading("counting hold-out looks") as session:
            return int(session.execute(wanted).scalar_one())

    def _held_seconds(self, session: Session, campaign: str) -> float:
        """Each holder's time: to its release, to now while it is alive, else to its last sign."""
        at = self.clock()
        held = 0.0
        for row in session.exec(select(LeaseRow).where(LeaseRow.campaign_id == campaign)):
            alive = row.released is None and row.until > at
            end = at if alive else row.released or row.renewed
            held += (end - row.acquired).total_seconds()
        return held
