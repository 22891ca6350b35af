"""A ledger on every engine there is: SQLite always, Postgres where one can be reached."""

import os
import pwd
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

import pytest
import sqlalchemy as sa

from nightlab.memory.example import Clock
from nightlab.memory.ledger import Ledger


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a Postgres server: the one that is named, or one started for this session."""
    named = os.environ.get("NIGHTLAB_TEST_POSTGRES_URL")
    if named:
        yield named
        return
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    if not found:
        pytest.skip("no Postgres: set NIGHTLAB_TEST_POSTGRES_URL or install postgresql")
    user = _server_user()
    if user is None:
        pytest.skip("Postgres does not run as root and there is no other user to run it")
    folder = Path(mkdtemp(prefix="nightlab-pg-", dir="/tmp"))
    shutil.chown(folder, user)
    ctl, data = found[-1], folder / "data"
    sockets = f"-c listen_addresses= -c unix_socket_directories={folder} -c fsync=off"

    def run(*command: str | Path) -> None:
        subprocess.run(command, check=True, capture_output=True, user=user, cwd=folder, timeout=60)

    run(ctl.with_name("initdb"), "-D", data, "-U", "nightlab", "-A", "trust", "--no-sync")
    run(ctl, "-w", "-D", data, "-o", sockets, "-l", folder / "log", "start")
    yield f"postgresql://nightlab@/postgres?host={folder}"
    run(ctl, "-w", "-D", data, "-m", "immediate", "stop")
    shutil.rmtree(folder)


def _server_user() -> str | None:
    """Who runs the server: this user, or where that is root, somebody who is not."""
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid()).pw_name
    names = {entry.pw_name for entry in pwd.getpwall()}
    return next((name for name in ("postgres", "nobody") if name in names), None)


@pytest.fixture(scope="module")
def postgres_schema(postgres: str) -> Iterator[str]:
    """The URL of an empty schema of its own."""
    yield from _schema(postgres)


@pytest.fixture(scope="session")
def prepared_postgres(postgres: str) -> Iterator[str]:
    """The URL of a schema with the ledger's tables, shared by the session."""
    for url in _schema(postgres):
        with Ledger.open(url, Path("unused")):
            yield url


@pytest.fixture(scope="session")
def prepared_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the ledger's tables, to be copied."""
    path = tmp_path_factory.mktemp("prepared") / "ledger.db"
    with Ledger.open(f"sqlite:///{path}", Path("unused")):
        return path


@pytest.fixture(params=["sqlite", "postgres"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database without tables, on each engine."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'ledger.db'}"
    else:
        yield from _schema(str(request.getfixturevalue("postgres")))


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database with the ledger's empty tables, on each engine."""
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("prepared_file"), tmp_path / "ledger.db")
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    prepared = str(request.getfixturevalue("prepared_postgres"))
    engine = sa.create_engine(sa.make_url(prepared).set(drivername="postgresql+psycopg"))
    tables = ", ".join(sa.inspect(engine).get_table_names())
    names = tables.replace("alembic_version, ", "").replace(", alembic_version", "")
    with engine.begin() as connection:
        connection.execute(sa.text(f"TRUNCATE {names} RESTART IDENTITY CASCADE"))
    engine.dispose()
    return prepared


def _schema(server: str) -> Iterator[str]:
    schema = f"test_{uuid.uuid4().hex}"
    own = sa.make_url(server).update_query_dict({"options": f"-csearch_path={schema}"})
    owner = sa.create_engine(sa.make_url(server).set(drivername="postgresql+psycopg"))
    with owner.begin() as connection:
        connection.execute(sa.schema.CreateSchema(schema))
    yield own.render_as_string(hide_password=False)
    with owner.begin() as connection:
        connection.execute(sa.schema.DropSchema(schema, cascade=True))
    owner.dispose()


@pytest.fixture
def clock() -> Clock:
    """A clock that moves when told to."""
    return Clock()


@pytest.fixture
def ledger(url: str, tmp_path: Path, clock: Clock) -> Iterator[Ledger]:
    """An empty ledger on each engine."""
    with Ledger.open(url, tmp_path / "artifacts", clock=clock) as opened:
        yield opened


@pytest.fixture
def sqlite_ledger(prepared_file: Path, tmp_path: Path, clock: Clock) -> Iterator[Ledger]:
    """An empty ledger in a file."""
    shutil.copy(prepared_file, tmp_path / "ledger.db")
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    with Ledger.open(url, tmp_path / "artifacts", clock=clock) as opened:
        yield opened
