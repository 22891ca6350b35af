"""The ledger: everything the lab knows, in one database and one folder of files.

    ledger = Ledger.open("sqlite:////home/me/.nightlab/ledger.db", Path("artifacts"))
    campaign = ledger.create_campaign(goal, objective, task="byte_lm", ...)
    lease = ledger.acquire_lease(campaign.id, owner="host:4711", seconds=60)
    experiment = ledger.begin_experiment(lease)
    trial = ledger.begin_trial(lease, experiment.id, program.id, rung="small", seed=1003, ...)
    ledger.finish_trial(trial, run, measurement, total_seconds=21.7)
    ledger.conclude_experiment(lease, experiment.id, Verdict.DISCARDED, "no better", estimate)

Whoever changes the course of a campaign shows the lease; a write under an old one raises
LedgerError. Every write is one transaction and may be repeated after a crash. What goes in and
comes out are frozen values (:mod:`nightlab.memory.records`, :mod:`nightlab.vocabulary`). One
Ledger may be used by many threads; each process opens its own.
"""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from nightlab.errors import LedgerError, boundary
from nightlab.memory.archive import Archive
from nightlab.memory.artifacts import Artifacts
from nightlab.memory.campaigns import Campaigns
from nightlab.memory.database import Database, now
from nightlab.memory.experiments import Experiments
from nightlab.memory.history import History
from nightlab.memory.notebook import Notebook
from nightlab.memory.schema import prepare
from nightlab.memory.totals import Totals
from nightlab.memory.trials import Trials


class Ledger(Campaigns, Experiments, Trials, Notebook, History, Archive, Totals):
    """All chapters on one database; see the module's docstring for its use."""

    def __init__(
        self, database: Database, artifacts: Artifacts, clock: Callable[[], datetime] = now
    ) -> None:
        super().__init__(database, clock)
        self.artifacts = artifacts

    @classmethod
    def open(
        cls,
        url: str,
        artifacts: Path,
        *,
        clock: Callable[[], datetime] = now,
        busy_seconds: float = 120.0,
    ) -> Self:
        """Open or create a ledger and bring its tables up to date.

        ``url``: SQLAlchemy's form, ``sqlite:////absolute/ledger.db`` or ``postgresql://...``;
        ``busy_seconds``: how long a writer waits for another before it raises LedgerError.
        Raises LedgerError when it cannot be read or was written by a newer nightlab.
        """
        with boundary(LedgerError, "opening the ledger"):
            database = Database(url, busy_seconds=busy_seconds)
            if database.path is not None:
                database.path.parent.mkdir(parents=True, exist_ok=True)
        prepare(database)
        return cls(database, Artifacts(artifacts), clock)

    def close(self) -> None:
        """Give back every connection."""
        self.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
