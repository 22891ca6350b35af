"""Many processes on one ledger: nothing lost, nothing half written, no silent waiting."""

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from nightlab.errors import LedgerError
from nightlab.memory.ledger import Ledger
from nightlab.vocabulary import Direction, Objective

OBJECTIVE = Objective(metric="val_bpb", direction=Direction.LOWER)

BEGIN_MANY = """
import sys
from pathlib import Path
from nightlab.memory.ledger import Ledger
from nightlab.memory.records import Lease
url, folder, times = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
with Ledger.open(url, folder) as ledger:
    lease = ledger.holder("c1")
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(times):
        ledger.begin_experiment(lease)
"""

HANG_IN_A_TRANSACTION = """
import sys, time
from pathlib import Path
from nightlab.memory.ledger import Ledger
from nightlab.memory.tables import ExperimentRow
with Ledger.open(sys.argv[1], Path(sys.argv[2])) as ledger:
    with ledger.database.writing("hanging") as session:
        row = ExperimentRow(
            id="c1-0", campaign_id="c1", number=0, edits=[], created=ledger.clock()
        )
        session.add(row)
        session.flush()
        print("written", flush=True)
        sys.stdin.readline()
"""


def python(script: str, *arguments: str) -> subprocess.Popen[str]:
    """A process of its own that says one line when it is ready."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() in {"ready", "written"}
    return process


def begin(ledger: Ledger) -> None:
    """Campaign c1, held for a long time."""
    campaign = ledger.create_campaign(
        "g", OBJECTIVE, task="t", tier="process", proposer="catalogue", seed=1
    )
    ledger.acquire_lease(campaign.id, "test:1", seconds=1e9)


def test_processes_that_write_at_once_lose_no_update(url: str, tmp_path: Path) -> None:
    with Ledger.open(url, tmp_path) as ledger:
        begin(ledger)
        writers = [python(BEGIN_MANY, url, str(tmp_path), "20") for _ in range(2)]
        for writer in writers:
            assert writer.stdin is not None
            writer.stdin.write("go\n")
            writer.stdin.flush()
        assert [writer.wait(timeout=60) for writer in writers] == [0, 0]
        numbers = [experiment.number for experiment in ledger.experiments("c1")]
        assert numbers == list(range(40))
        for writer in writers:
            writer.communicate()


def test_a_writer_killed_in_mid_transaction_leaves_nothing_behind(url: str, tmp_path: Path) -> None:
    with Ledger.open(url, tmp_path) as ledger:
        begin(ledger)
        writer = python(HANG_IN_A_TRANSACTION, url, str(tmp_path))
        os.kill(writer.pid, signal.SIGKILL)
        writer.communicate(timeout=30)
        assert ledger.experiments("c1") == []
        lease = ledger.holder("c1")
        assert lease is not None
        assert ledger.begin_experiment(lease).id == "c1-0"


def test_a_reader_does_not_wait_for_a_writer_and_sees_no_half_of_its_work(
    url: str, tmp_path: Path
) -> None:
    with Ledger.open(url, tmp_path, busy_seconds=0.1) as ledger:
        begin(ledger)
        writer = python(HANG_IN_A_TRANSACTION, url, str(tmp_path))
        assert ledger.experiments("c1") == []
        writer.communicate("go\n", timeout=30)
        assert [experiment.id for experiment in ledger.experiments("c1")] == ["c1-0"]


def test_a_ledger_that_stays_locked_is_an_error_in_one_line(
    sqlite_ledger: Ledger, tmp_path: Path
) -> None:
    begin(sqlite_ledger)
    url = sqlite_ledger.database.name
    with (
        Ledger.open(url, tmp_path, busy_seconds=0.1) as ledger,
        closing(sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)) as other,
    ):
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerError, match=r"^writing the log in the ledger .*is locked$"):
            ledger.log("c1", "note", "hello")
        other.execute("ROLLBACK")
        ledger.log("c1", "note", "hello")


def test_every_connection_has_the_pragmas_of_a_ledger_of_record(sqlite_ledger: Ledger) -> None:
    database = sqlite_ledger.database
    for engine in (database.writer, database.reader):
        with engine.connect() as connection:
            found: dict[str, Any] = {
                name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
                for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
            }
        assert found["journal_mode"] == "wal"
        assert found["synchronous"] == 2
        assert found["foreign_keys"] == 1
        assert found["busy_timeout"] >= 10_000


def test_a_row_that_refers_to_nothing_is_refused(ledger: Ledger) -> None:
    begin(ledger)
    lease = ledger.holder("c1")
    assert lease is not None
    experiment = ledger.begin_experiment(lease).id
    with pytest.raises(LedgerError, match=r"(?i)foreign key"):
        ledger.set_proposal(experiment, program="no such program", parent=None, author="x")
    assert ledger.experiment(experiment).author == ""


def test_a_file_that_is_no_database_is_an_error_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_text("not a database " * 100)
    with pytest.raises(LedgerError, match=r"^reading the schema .*not a database$"):
        Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}", tmp_path)


def test_a_password_is_not_shown(tmp_path: Path) -> None:
    with pytest.raises(LedgerError) as caught:
        Ledger.open("postgresql://me:secret@localhost:1/none?connect_timeout=1", tmp_path)
    assert "secret" not in str(caught.value)
