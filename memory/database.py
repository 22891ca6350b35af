"""One door to the database: two engines, two kinds of transaction.

SQLite: WAL, ``BEGIN IMMEDIATE`` for a writer (a deferred one loses the race to upgrade, and the
driver's default loses updates without a word), plain ``BEGIN`` for a reader, which then sees one
snapshot. Postgres: a writer takes one advisory lock, so that both engines have one writer at a
time and the same behaviour; a reader sees one snapshot (repeatable read).
WAL needs a local disk: do not put a ledger on a network file system.
"""

import json
import math
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import sqlalchemy as sa
from sqlmodel import Session

from nightlab.errors import LedgerError, NightlabError

WRITER_LOCK = 0x6E696768746C6162
"""Postgres advisory lock of the one writer: "nightlab" in ASCII."""


class Cursor(Protocol):
    """What the connect hook needs of a driver's cursor."""

    def execute(self, statement: str, /) -> object: ...
    def close(self) -> None: ...


class Driver(Protocol):
    """What the connect hook needs of a driver's connection."""

    isolation_level: str | None

    def cursor(self) -> Cursor: ...


def now() -> datetime:
    """The ledger's default clock."""
    return datetime.now(UTC)


def plain(value: object) -> object:
    """JSON's own types for mappings and sequences; null for a number that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def dumps(value: object) -> str:
    """The text of a JSON column: compact, strict JSON."""
    return json.dumps(plain(value), separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def reason(cause: Exception) -> str:
    """One line on what the database said."""
    text = str(getattr(cause, "orig", None) or cause).strip()
    return text.splitlines()[0] if text else type(cause).__name__


class Database:
    """Two engines on one URL; ``writing`` and ``reading`` are the only transactions there are."""

    def __init__(self, url: str, *, busy_seconds: float) -> None:
        self.url = sa.make_url(url)
        if self.url.drivername in {"postgresql", "postgres"}:
            self.url = self.url.set(drivername="postgresql+psycopg")
        self.name = self.url.render_as_string(hide_password=True)
        self.writer = self._engine("BEGIN IMMEDIATE", busy_seconds)
        self.reader = self._engine("BEGIN", busy_seconds)

    @property
    def path(self) -> Path | None:
        """The file, where the ledger is one."""
        is_file = self.url.get_backend_name() == "sqlite" and self.url.database
        return Path(str(self.url.database)) if is_file else None

    def close(self) -> None:
        """Give back every connection."""
        self.writer.dispose()
        self.reader.dispose()

    @contextmanager
    def writing(self, doing: str) -> Iterator[Session]:
        """One transaction that holds the only write lock: all of it happens, or none."""
        with self._session(self.writer, doing) as session:
            if self.path is None:
                lock = sa.text("SELECT pg_advisory_xact_lock(:key)")
                session.connection().execute(lock, {"key": WRITER_LOCK})
            yield session
            session.commit()

    @contextmanager
    def reading(self, doing: str) -> Iterator[Session]:
        """One snapshot; never waits for a writer."""
        with self._session(self.reader, doing) as session:
            yield session

    @contextmanager
    def _session(self, engine: sa.Engine, doing: str) -> Iterator[Session]:
        try:
            with Session(engine, expire_on_commit=False) as session:
                yield session
        except NightlabError:
            raise
        except (sa.exc.SQLAlchemyError, sqlite3.Error, OSError) as cause:
            raise LedgerError(f"{doing} in the ledger {self.name}: {reason(cause)}") from cause

    def _engine(self, begin: str, busy_seconds: float) -> sa.Engine:
        if self.path is None:
            level = "READ COMMITTED" if begin == "BEGIN IMMEDIATE" else "REPEATABLE READ"
            return sa.create_engine(
                self.url, json_serializer=dumps, isolation_level=level, pool_pre_ping=True
            )
        engine = sa.create_engine(
            self.url, json_serializer=dumps, connect_args={"timeout": busy_seconds}
        )
        sa.event.listen(engine, "connect", _prepare(busy_seconds))
        sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
        return engine


def _prepare(busy_seconds: float) -> Callable[[Driver, object], None]:
    """The pragmas of every SQLite connection; the driver's own transactions are off."""

    def connect(driver: Driver, _record: object) -> None:
        driver.isolation_level = None
        cursor = driver.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {int(busy_seconds * 1000)}")
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()

    return connect
