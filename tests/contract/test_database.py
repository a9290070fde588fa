"""The schema goes up and down with live data, two at once, and is the one that the tables describe."""

import asyncio
import fcntl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import insert, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from service.contract import database
from service.contract.errors import ConfigurationError, DatabaseError
from service.contract.settings import Timeouts
from service.contract.tables import clicks, metadata
from tests.conftest import TIMEOUTS

AT = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
_TIMEOUTS_SHOWN = {"SHOW statement_timeout": "2s", "SHOW lock_timeout": "2s"}
_PRAGMAS_SHOWN = {
    "PRAGMA journal_mode": "wal",
    "PRAGMA synchronous": 2,  # FULL
    "PRAGMA busy_timeout": 2000,
    "PRAGMA foreign_keys": 1,
}
CLICK = {"impression_id": "i1", "position": 1, "kind": "click", "at": AT, "task": "suggest"}


@pytest.fixture
def empty_url(database_url: str) -> Iterator[str]:
    """The URL of a database without tables; PostgreSQL's gets them back afterwards."""
    database.downgrade(database_url, TIMEOUTS, "base")
    yield database_url
    database.upgrade(database_url, TIMEOUTS)


async def test_the_migrations_make_the_tables_that_the_code_describes(engine: AsyncEngine) -> None:
    options = {"compare_type": True, "compare_server_default": True}

    async with engine.connect() as connection:
        differences = await connection.run_sync(
            lambda sync: compare_metadata(MigrationContext.configure(sync, opts=options), metadata)
        )

    assert differences == []


async def test_a_migrated_database_passes_the_check(engine: AsyncEngine) -> None:
    await database.check_schema(engine)


async def test_a_database_without_tables_is_told_with_the_way_out(empty_url: str) -> None:
    engine = database.create(empty_url, TIMEOUTS)

    with pytest.raises(DatabaseError, match="nextquery db upgrade"):
        await database.check_schema(engine)

    await engine.dispose()


async def test_a_database_of_another_version_is_told_and_left_alone(engine: AsyncEngine, database_url: str) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))

    with pytest.raises(DatabaseError, match="9999"):
        await database.check_schema(engine)
    with pytest.raises(DatabaseError, match="newer nextquery"):
        await asyncio.to_thread(database.upgrade, database_url, TIMEOUTS)

    async with engine.begin() as connection:
        await connection.execute(
            text("UPDATE alembic_version SET version_num = :head"), {"head": database.head_revision()}
        )


async def test_a_database_that_is_away_is_a_database_error() -> None:
    engine = database.create("postgresql+psycopg://nobody:secret@127.0.0.1:1/none", TIMEOUTS)

    with pytest.raises(DatabaseError) as away:
        await database.check_schema(engine)

    assert "secret" not in str(away.value)


@pytest.mark.parametrize("url", ["", "nonsense", "mysql://x/y", "sqlite+aiosqlite://", "sqlite+aiosqlite:///:memory:"])
def test_a_url_that_cannot_be_used_is_refused_with_an_example(url: str) -> None:
    with pytest.raises(ConfigurationError, match="sqlite\\+aiosqlite:///path"):
        database.create(url, TIMEOUTS)


def test_upgrades_at_once_all_succeed(empty_url: str) -> None:
    together = threading.Barrier(4)

    def upgrade() -> None:
        together.wait(timeout=10)
        database.upgrade(empty_url, TIMEOUTS)

    with ThreadPoolExecutor(4) as pool:
        done = [pool.submit(upgrade) for _ in range(4)]

    assert [future.exception() for future in done] == [None] * 4


def test_an_upgrade_waits_for_another_one_no_longer_than_told(database_url: str) -> None:
    impatient = Timeouts(migration_lock_s=0.2)

    with migration_lock(database_url), pytest.raises(DatabaseError):
        database.upgrade(database_url, impatient)

    database.upgrade(database_url, impatient)


async def test_an_upgrade_keeps_live_data(engine: AsyncEngine, database_url: str) -> None:
    async with engine.begin() as connection:
        await connection.execute(insert(clicks), CLICK)

    await asyncio.to_thread(database.upgrade, database_url, TIMEOUTS)

    async with engine.connect() as connection:
        assert len((await connection.execute(select(clicks))).all()) == 1


async def test_the_schema_goes_up_down_and_up_again(empty_url: str) -> None:
    for _ in range(2):
        await asyncio.to_thread(database.upgrade, empty_url, TIMEOUTS)
        engine = database.create(empty_url, TIMEOUTS)
        await database.check_schema(engine)
        async with engine.begin() as connection:
            await connection.execute(insert(clicks), CLICK)
        await engine.dispose()
        await asyncio.to_thread(database.downgrade, empty_url, TIMEOUTS, "base")


async def test_a_moment_comes_back_with_its_zone_as_the_same_moment(engine: AsyncEngine) -> None:
    elsewhere = AT.astimezone(timezone(timedelta(hours=9)))

    async with engine.begin() as connection:
        await connection.execute(insert(clicks), {**CLICK, "at": elsewhere})
        found = (await connection.execute(select(clicks.c.at))).scalar_one()

    assert (found, found.tzinfo) == (AT, UTC)


async def test_every_connection_has_its_timeouts_and_sqlite_its_durability(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        postgresql = engine.dialect.name == "postgresql"
        asked = _TIMEOUTS_SHOWN if postgresql else _PRAGMAS_SHOWN
        shown = {query: (await connection.execute(text(query))).scalar_one() for query in asked}

    assert shown == asked


@contextmanager
def migration_lock(url: str) -> Iterator[None]:
    if url.startswith("sqlite"):
        path = Path(str(make_url(url).database) + ".migrate.lock")
        with path.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
    else:
        with psycopg.connect(url.replace("+psycopg", ""), autocommit=True, connect_timeout=3) as connection:
            connection.execute("SELECT pg_advisory_lock(%s)", (database._MIGRATION_LOCK,))
            yield
