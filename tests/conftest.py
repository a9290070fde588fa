"""What tests share: a database of each kind, and the rule for what a machine does not have.

It knows nothing about the service itself.
"""

import getpass
import os
import shutil
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from service.contract import database
from service.contract.settings import Timeouts
from service.contract.tables import metadata
from service.events.group_commit import GroupCommit

TIMEOUTS = Timeouts(database_connect_s=2, database_statement_s=2, migration_lock_s=20)


def require(what: object, reason: str) -> None:
    """Skip the test when `what` is missing (falsy) on this machine; in CI, where all must be there, fail instead."""
    if what:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(f"{reason} In CI nothing may be missing.", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def postgresql_url() -> Iterator[str]:
    """The URL of a fresh PostgreSQL database, migrated, and dropped at the end."""
    server = _postgresql_server()
    require(
        server, "PostgreSQL does not answer: start it on 127.0.0.1:5432, or set NEXTQUERY_TEST_POSTGRES to its URL."
    )
    assert server  # require() has not returned otherwise
    name = f"nextquery_test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server, autocommit=True, connect_timeout=3) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    url = make_url(server).set(drivername="postgresql+psycopg", database=name).render_as_string(hide_password=False)
    database.upgrade(url, TIMEOUTS)
    yield url
    with psycopg.connect(server, autocommit=True, connect_timeout=3) as connection:
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file to copy from."""
    path = tmp_path_factory.mktemp("sqlite") / "nextquery.db"
    database.upgrade(f"sqlite+aiosqlite:///{path}", TIMEOUTS)
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a migrated, empty database, once of each kind."""
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{shutil.copy(request.getfixturevalue('migrated_sqlite'), tmp_path)}"
    return emptied(request.getfixturevalue("postgresql_url"))


def emptied(postgresql_url: str) -> str:
    """The URL, once no table of the shared database holds a row: what a test left must not reach the next."""
    with psycopg.connect(postgresql_url.replace("+psycopg", ""), autocommit=True, connect_timeout=3) as connection:
        connection.execute(";".join(f"DELETE FROM {table}" for table in metadata.tables))
    return postgresql_url


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    """An open engine on `database_url`."""
    opened = database.create(database_url, TIMEOUTS)
    yield opened
    await opened.dispose()


@pytest.fixture
async def writer(engine: AsyncEngine) -> AsyncIterator[GroupCommit]:
    """A started durable writer on `engine`."""
    started = GroupCommit(engine)
    await started.start()
    yield started
    await started.close()


def _postgresql_server() -> str | None:
    users = ("postgres", getpass.getuser())
    given = os.environ.get("NEXTQUERY_TEST_POSTGRES")
    for url in [given] if given else [f"postgresql://{user}@127.0.0.1/postgres" for user in users]:
        try:
            plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
            psycopg.connect(plain, connect_timeout=3).close()
        except psycopg.OperationalError:
            continue
        return plain
    return None
