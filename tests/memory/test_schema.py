"""Tables come from migrations alone; old ledgers are kept and upgraded, newer ones refused."""

import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlmodel import SQLModel

from nightlab.errors import LedgerError
from nightlab.memory.database import Database
from nightlab.memory.ledger import Ledger
from nightlab.memory.schema import MIGRATIONS, prepare, revision, revisions
from nightlab.vocabulary import Direction, Objective

ADD_A_COLUMN = '''
"""One more column."""
import sqlalchemy as sa
from alembic import op
revision = "0002"
down_revision = "0001"
def upgrade() -> None:
    """One more column."""
    op.add_column("campaigns", sa.Column("mood", sa.String(), server_default="fine"))
'''
BREAK = ADD_A_COLUMN + "    raise RuntimeError('half way')\n"


def test_the_migrations_make_exactly_the_tables_in_the_code(empty_url: str, tmp_path: Path) -> None:
    with Ledger.open(empty_url, tmp_path) as ledger, ledger.database.reader.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, SQLModel.metadata) == []


def test_the_migrations_check_exactly_the_words_in_the_code(empty_url: str, tmp_path: Path) -> None:
    with Ledger.open(empty_url, tmp_path) as ledger:
        inspector = sa.inspect(ledger.database.reader)
        for table in SQLModel.metadata.sorted_tables:
            found = {
                str(check["name"]): words(check["sqltext"])
                for check in inspector.get_check_constraints(table.name)
            }
            assert found == {
                str(check.name): words(str(check.sqltext))
                for check in table.constraints
                if isinstance(check, sa.CheckConstraint)
            }


def words(check: str) -> set[str]:
    """What a CHECK allows."""
    return set(re.findall(r"'([^']+)'", check))


def test_the_files_are_numbered_as_alembic_reads_them() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    script = ScriptDirectory.from_config(config)
    assert [one.revision for one in script.walk_revisions()] == list(reversed(revisions()))


def test_a_ledger_from_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with Ledger.open(f"sqlite:///{path}", tmp_path):
        pass
    with closing(sqlite3.connect(path)) as direct:
        direct.execute("UPDATE alembic_version SET version_num = '9999'")
        direct.commit()
    with pytest.raises(LedgerError, match="schema 9999, which is newer than this nightlab"):
        Ledger.open(f"sqlite:///{path}", tmp_path)
    assert list(tmp_path.glob("*.backup*")) == []


def later(tmp_path: Path, migration: str) -> Path:
    """The migrations of a later version."""
    folder = tmp_path / "migrations"
    shutil.copytree(MIGRATIONS, folder)
    (folder / "versions" / "0002_one_more_column.py").write_text(migration)
    return folder


def old_ledger(tmp_path: Path) -> Database:
    """A ledger of this version with one campaign in it."""
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    with Ledger.open(url, tmp_path) as ledger:
        objective = Objective(metric="val_bpb", direction=Direction.LOWER)
        ledger.create_campaign("keep me", objective, task="t", tier="process", proposer="c", seed=1)
    return Database(url, busy_seconds=10)


def test_an_older_ledger_is_backed_up_and_upgraded_with_its_data(tmp_path: Path) -> None:
    database = old_ledger(tmp_path)
    prepare(database, later(tmp_path, ADD_A_COLUMN))
    assert revision(database) == "0002"
    database.close()
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as upgraded:
        assert upgraded.execute("SELECT goal, mood FROM campaigns").fetchall() == [
            ("keep me", "fine")
        ]
    with closing(sqlite3.connect(tmp_path / "ledger.db.backup-0001")) as backup:
        assert backup.execute("SELECT goal FROM campaigns").fetchall() == [("keep me",)]
        assert backup.execute("SELECT version_num FROM alembic_version").fetchall() == [("0001",)]


def test_an_upgrade_that_fails_half_way_changes_nothing(tmp_path: Path) -> None:
    database = old_ledger(tmp_path)
    with pytest.raises(LedgerError, match="upgrading the schema"):
        prepare(database, later(tmp_path, BREAK))
    assert revision(database) == "0001"
    database.close()
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as direct:
        columns = [row[1] for row in direct.execute("PRAGMA table_info(campaigns)")]
    assert "mood" not in columns


def test_processes_that_open_a_new_ledger_at_once_all_succeed(
    empty_url: str, tmp_path: Path
) -> None:
    script = "import sys; from pathlib import Path; from nightlab.memory.ledger import Ledger; "
    script += "Ledger.open(sys.argv[1], Path(sys.argv[2])).close()"
    command = [sys.executable, "-c", script, empty_url, str(tmp_path)]
    openers = [subprocess.Popen(command) for _ in range(2)]
    assert [opener.wait(timeout=60) for opener in openers] == [0, 0]
    with Ledger.open(empty_url, tmp_path) as ledger:
        assert ledger.campaigns() == []
