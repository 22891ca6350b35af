"""Trials as the ledger keeps them, for tests of what is concluded from them."""

from datetime import UTC, datetime

from nightlab.memory.records import Arm, Trial, TrialStatus
from nightlab.vocabulary import Measurement, Purpose, Run


def trial(run: Run | None = None, measured: Measurement | None = None) -> Trial:
    """A candidate's trial on the small rung, with the run that it ended with."""
    return Trial(
        id="c1-1/small/1",
        campaign="c1",
        experiment="c1-1",
        program="p",
        rung="small",
        seed=1,
        purpose=Purpose.SCREEN,
        arm=Arm.CANDIDATE,
        status=TrialStatus.FINISHED,
        attempt=1,
        token=1,
        started=datetime(2026, 1, 1, tzinfo=UTC),
        run=run,
        measurement=measured,
    )
