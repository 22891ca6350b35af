"""Brings a ledger to this version's tables when it is opened.

An older ledger is backed up beside itself and upgraded under a lock, so that two processes that
start together do it once; a newer one is refused. The migrations are in ``migrations/versions``.
"""

import fcntl
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import sqlalchemy as sa

from nightlab.errors import LedgerError, boundary
from nightlab.memory.database import WRITER_LOCK, Database

MIGRATIONS = Path(__file__).parent / "migrations"


def revisions(migrations: Path = MIGRATIONS) -> list[str]:
    """Every revision this version knows, the newest last: the numbers its files begin with."""
    files = (migrations / "versions").glob("[0-9]*_*.py")
    return sorted(path.name.split("_")[0] for path in files)


def prepare(database: Database, migrations: Path = MIGRATIONS) -> None:
    """Create or upgrade the tables.

    Raises LedgerError when a newer nightlab wrote them, or when they cannot be read or written.
    """
    known = revisions(migrations)
    if revision(database) == known[-1]:
        return
    with _alone(database):
        found = revision(database)
        if found == known[-1]:
            return
        if found is not None and found not in known:
            raise LedgerError(
                f"the ledger {database.name} has schema {found}, which is newer than this nightlab "
                f"({known[-1]}): upgrade nightlab, or choose another ledger with NIGHTLAB_HOME"
            )
        if found is not None:
            _back_up(database, found)
        _upgrade(database, migrations)


def revision(database: Database) -> str | None:
    """The ledger's schema revision; None when it is empty."""
    with database.reading("reading the schema") as session:
        connection = session.connection()
        if not sa.inspect(connection).has_table("alembic_version"):
            return None
        found = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
        return None if found is None else str(found)


def _upgrade(database: Database, migrations: Path) -> None:
    """Run every missing migration in one transaction."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(migrations).replace("%", "%%"))
    doing = "upgrading the schema"
    with boundary(LedgerError, doing), database.writing(doing) as session:
        config.attributes["connection"] = session.connection()
        command.upgrade(config, "head")


def _back_up(database: Database, found: str) -> None:
    """A whole copy beside the file; Postgres has its own tools for that."""
    if database.path is None:
        return
    copy = database.path.with_name(f"{database.path.name}.backup-{found}")
    with (
        closing(sqlite3.connect(database.path)) as source,
        closing(sqlite3.connect(copy)) as target,
    ):
        source.backup(target)


@contextmanager
def _alone(database: Database) -> Iterator[None]:
    """One process at a time, also before the first table exists."""
    if database.path is None:
        with database.reader.connect() as connection:
            connection.execute(sa.text("SELECT pg_advisory_lock(:key)"), {"key": WRITER_LOCK + 1})
            try:
                yield
            finally:
                unlock = sa.text("SELECT pg_advisory_unlock(:key)")
                connection.execute(unlock, {"key": WRITER_LOCK + 1})
        return
    with open(database.path.with_name(f"{database.path.name}.lock"), "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
