"""Reaches the database: engines with every timeout set, the schema check, and migrating under a lock.

It knows no table and no query; SQLite and PostgreSQL are the two it can speak to.
"""

import fcntl
import math
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import URL, Connection, event, make_url, text
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from service.contract.errors import ConfigurationError, DatabaseError
from service.contract.settings import Timeouts

_MIGRATION_LOCK = 0x6E65787471  # "nextq": the advisory lock that only migrations take
_POOL_SIZE = 4


@contextmanager
def database_errors(doing: str) -> Iterator[None]:
    """Turn what drivers raise into DatabaseError; `doing` completes "The database did not answer while ..."."""
    try:
        yield
    except (SQLAlchemyError, psycopg.Error, sqlite3.Error, OSError, TimeoutError) as error:
        cause = str(getattr(error, "orig", None) or error).strip().splitlines() or [type(error).__name__]
        raise DatabaseError(
            f"The database did not answer while {doing}: {cause[0]}. "
            "Check that it runs and that NEXTQUERY_DATABASE_URL is right; `nextquery doctor` tells more."
        ) from error


def parse_url(url: str) -> URL:
    """Check that the URL names one of the two supported databases and drivers, and return its parts.

    Raises:
        ConfigurationError: It does not, or a SQLite URL names no file.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        parsed = None
    if parsed is None or parsed.drivername not in ("postgresql+psycopg", "sqlite+aiosqlite"):
        raise ConfigurationError(
            "NEXTQUERY_DATABASE_URL is not a URL that nextquery can use. Write "
            "postgresql+psycopg://user:password@host/name or sqlite+aiosqlite:///path/to/file."
        )
    if parsed.drivername == "sqlite+aiosqlite" and parsed.database in (None, "", ":memory:"):
        raise ConfigurationError(
            "NEXTQUERY_DATABASE_URL names no SQLite file, and a database in memory loses every click. "
            "Write sqlite+aiosqlite:///path/to/file."
        )
    return parsed


def create(url: str, timeouts: Timeouts) -> AsyncEngine:
    """Create an engine for reading and for rare writes, with a small pool; nothing is opened yet.

    Frequent writes go through `service.events.group_commit`, which opens its own connection by `connect_writer`.
    """
    parsed = parse_url(url)
    engine = create_async_engine(
        parsed,
        pool_size=_POOL_SIZE,
        max_overflow=0,
        pool_timeout=timeouts.database_connect_s,
        pool_pre_ping=True,
        connect_args=_connect_args(parsed, timeouts),
        execution_options={"timeouts": timeouts},
    )
    if parsed.get_backend_name() == "sqlite":
        event.listen(engine.sync_engine, "connect", lambda connection, _: _set_pragmas(connection, timeouts))
    return engine


def timeouts_of(engine: AsyncEngine) -> Timeouts:
    """Return the timeouts that the engine was created with."""
    timeouts: Timeouts = engine.sync_engine.get_execution_options()["timeouts"]
    return timeouts


def connect_writer(engine: AsyncEngine) -> psycopg.Connection | sqlite3.Connection:
    """Open one blocking connection in autocommit mode to the same database, usable from any thread."""
    timeouts = timeouts_of(engine)
    if engine.dialect.name == "sqlite":
        lite = sqlite3.connect(str(engine.url.database), isolation_level=None, check_same_thread=False)
        _set_pragmas(lite, timeouts)
        return lite
    _, options = engine.dialect.create_connect_args(engine.url)
    return psycopg.connect(**options, **_connect_args(engine.url, timeouts), autocommit=True)


async def check_schema(engine: AsyncEngine) -> None:
    """Return if the database has the tables of exactly this code.

    Raises:
        DatabaseError: It has none, older or newer ones, or does not answer.
    """
    with database_errors("its schema was read"):
        async with engine.connect() as connection:
            found = await connection.run_sync(lambda sync: MigrationContext.configure(sync).get_current_revision())
    wanted = head_revision()
    if found == wanted:
        return
    if found is None:
        raise DatabaseError("The database has no tables of nextquery yet. Run `nextquery db upgrade`.")
    raise DatabaseError(
        f"The database is at schema revision {found}; this code needs {wanted}. Run `nextquery db upgrade`; when the "
        "database is the newer one, start the version of nextquery that upgraded it."
    )


def head_revision() -> str:
    """Return the newest revision in `migrations/`."""
    return str(ScriptDirectory.from_config(_alembic()).get_current_head())


def upgrade(url: str, timeouts: Timeouts, revision: str = "head") -> None:
    """Bring the schema to `revision`; of two processes doing so at once, one waits and finds it done.

    Blocking: call it before serving, or in a thread.

    Raises:
        DatabaseError: The database is away, a migration failed, or another process held the lock for too long.
    """
    with _migrating(url, timeouts) as connection:
        command.upgrade(_alembic(connection), revision)


def downgrade(url: str, timeouts: Timeouts, revision: str) -> None:
    """Take the schema back to `revision` ("base" drops everything). Blocking."""
    with _migrating(url, timeouts) as connection:
        command.downgrade(_alembic(connection), revision)


def _alembic(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parents[2] / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


@contextmanager
def _migrating(url: str, timeouts: Timeouts) -> Iterator[Connection]:
    parsed = parse_url(url)
    lock = _sqlite_migration if parsed.get_backend_name() == "sqlite" else _postgresql_migration
    try:
        with database_errors("its schema was migrated"), lock(parsed, timeouts) as connection:
            yield connection
    except CommandError as error:
        raise DatabaseError(
            f"The schema cannot be migrated: {error}. Usually a newer nextquery has migrated this database: start "
            "that version, or downgrade with it first."
        ) from error


@contextmanager
def _postgresql_migration(url: URL, timeouts: Timeouts) -> Iterator[Connection]:
    engine = sqlalchemy.create_engine(url, connect_args=_connect_args(url, timeouts), poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        # The work itself may take long on a big table; only waiting for others is bounded.
        connection.execute(text("SELECT set_config('statement_timeout', '0', false)"))
        connection.execute(
            text("SELECT set_config('lock_timeout', :ms, false)"),
            {"ms": f"{math.ceil(timeouts.migration_lock_s * 1e3)}"},
        )
        connection.execute(text(f"SELECT pg_advisory_lock({_MIGRATION_LOCK})"))
        connection.commit()  # the lock belongs to the session, and goes with it
        yield connection
        connection.commit()


@contextmanager
def _sqlite_migration(url: URL, timeouts: Timeouts) -> Iterator[Connection]:
    path = Path(str(url.database))
    path.parent.mkdir(parents=True, exist_ok=True)
    engine = sqlalchemy.create_engine(url.set(drivername="sqlite"), poolclass=sqlalchemy.NullPool)
    with path.with_name(path.name + ".migrate.lock").open("w") as lock:
        _wait_for_file_lock(lock.fileno(), timeouts.migration_lock_s)
        event.listen(engine, "connect", lambda connection, _: _set_pragmas(connection, timeouts, foreign_keys=False))
        with engine.connect() as connection:
            yield connection
            connection.commit()


def _wait_for_file_lock(descriptor: int, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise TimeoutError(f"another process has been migrating for {timeout_s:g} s") from None
            time.sleep(0.02)


def _connect_args(url: URL, timeouts: Timeouts) -> dict[str, Any]:
    if url.get_backend_name() == "sqlite":
        return {"timeout": timeouts.database_statement_s}
    statement_ms = math.ceil(timeouts.database_statement_s * 1000)
    return {
        "connect_timeout": math.ceil(timeouts.database_connect_s),
        "tcp_user_timeout": statement_ms,
        "application_name": "nextquery",
        "options": f"-c statement_timeout={statement_ms} -c lock_timeout={statement_ms} -c timezone=UTC "
        "-c synchronous_commit=on "  # whatever the server's default is: acknowledged means on disk
        f"-c idle_in_transaction_session_timeout={10 * statement_ms}",
    }


def _set_pragmas(connection: Any, timeouts: Timeouts, *, foreign_keys: bool = True) -> None:
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {math.ceil(timeouts.database_statement_s * 1000)}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute(f"PRAGMA foreign_keys = {'ON' if foreign_keys else 'OFF'}")
    cursor.close()
