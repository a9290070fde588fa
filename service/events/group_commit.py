"""The durable writer: many callers share one transaction, and each hears back only after the commit.

It knows nothing about what the rows mean. One thread owns one connection; a batch is one statement a table.
"""

import asyncio
import json
import re
import socket
import sqlite3
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import psycopg
from sqlalchemy import Table
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncEngine

from service.contract.database import connect_writer, database_errors, timeouts_of
from service.contract.errors import DatabaseError, NextQueryError, Overloaded
from service.contract.tables import metadata

_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
# What one row can do wrong; everything else is the database's fault and concerns all rows.
_ROW_ERRORS = (
    psycopg.DataError,
    psycopg.IntegrityError,
    psycopg.errors.ProgramLimitExceeded,
    psycopg.errors.StatementTooComplex,
    sqlite3.DataError,
    sqlite3.IntegrityError,
)
_CUT_S = 1.0  # for a connection that was cut to come back with its error


class Outcome(StrEnum):
    """What became of a row. `REFUSED`: the database cannot hold it, today or ever."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    REFUSED = "refused"


class RowRefused(NextQueryError):
    """The database cannot hold this row: a NUL, a lone surrogate, a missing or unknown column, a value too big."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """One row for the table of that name. Columns that are left out take their default, or null."""

    table: str
    row: Mapping[str, Any]


@dataclass(slots=True)
class _Row:
    table: str
    key: tuple[Any, ...]
    text: str  # the row as a JSON object
    outcome: Outcome | None = None


@dataclass(slots=True)
class _Unit:
    rows: list[_Row]
    committed: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class GroupCommit:
    """Takes rows from many callers at once. While one batch commits, the next one gathers."""

    def __init__(self, database: AsyncEngine, *, most_queued: int = 8192, most_rows: int = 512) -> None:
        """Prepare; nothing is opened before `start`.

        Args:
            database: from `service.contract.database.create`; the writer opens a connection of its own beside it.
            most_queued: rows that may wait; more are refused with Overloaded.
            most_rows: rows of one batch, give or take the last caller's.
        """
        self._timeouts = timeouts_of(database)
        self._inserter = _Inserter(database)
        self._most_queued = most_queued
        self._most_rows = most_rows
        self._queue: deque[_Unit] = deque()
        self._queued = 0
        self._wanted = asyncio.Event()
        self._away: str | None = None
        self._closing = False
        self._task: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="group-commit")

    async def start(self) -> None:
        """Connect and begin to write. When the database is away, writes are refused until it is back."""
        try:
            await self._in_thread(self._inserter.open, self._timeouts.database_connect_s)
        except DatabaseError as error:
            self._away = str(error)
        self._task = asyncio.create_task(self._run(), name="group-commit")

    async def close(self) -> None:
        """Commit what was accepted, then disconnect. May be called twice, and without `start`."""
        self._closing = True
        self._wanted.set()
        if self._task and not self._task.done():
            if self._away is None:
                await asyncio.wait([self._task], timeout=self._timeouts.database_statement_s)
            self._task.cancel()
            await asyncio.wait([self._task], timeout=_CUT_S)
        self._refuse(self._take(self._most_queued), "The service is stopping, and the row was not written.")
        with suppress(DatabaseError, RuntimeError):
            await self._in_thread(self._inserter.close, _CUT_S)
        self._thread.shutdown(wait=False)

    async def write(self, write: Write) -> Outcome:
        """STORED or DUPLICATE, after the commit. A caller that is cancelled leaves its row in the batch.

        Raises:
            RowRefused: The database cannot hold the row.
            DatabaseError: The database is away; the row may or may not be there, and may be sent again.
            Overloaded: Too many rows wait.
        """
        row = self._inserter.encode(write)
        await self._enqueue([row])
        if row.outcome is Outcome.REFUSED or row.outcome is None:
            raise RowRefused(f"A row for {write.table} was refused by the database. Usually a value is too long or null.")
        return row.outcome

    async def write_many(self, writes: Sequence[Write]) -> list[Outcome]:
        """The outcome of each write, after the commit of all; a row that cannot be held is REFUSED, never raised.

        Raises:
            DatabaseError: As `write`; some rows may be there, and all may be sent again.
            Overloaded: Too many rows wait; none was taken.
        """
        rows = [self._try_encode(write) for write in writes]
        good = [row for row in rows if row]
        if good:
            await self._enqueue(good)
        return [(row.outcome if row else None) or Outcome.REFUSED for row in rows]

    def _try_encode(self, write: Write) -> _Row | None:
        try:
            return self._inserter.encode(write)
        except RowRefused:
            return None

    async def _enqueue(self, rows: list[_Row]) -> None:
        if self._away is not None:
            raise DatabaseError(self._away)
        if self._closing or self._queued + len(rows) > self._most_queued:
            raise Overloaded("The writer cannot take more rows now. Send them again after the pause.")
        unit = _Unit(rows)
        self._queue.append(unit)
        self._queued += len(rows)
        self._wanted.set()
        await unit.committed

    async def _run(self) -> None:
        if self._away is not None:
            await self._reconnect(self._away)
        while not (self._closing and not self._queue):
            await self._wanted.wait()
            await asyncio.sleep(0)  # callers that the last commit woke join this batch
            batch = self._take(self._most_rows)
            try:
                rows = [row for unit in batch for row in unit.rows]
                await self._in_thread(lambda rows=rows: self._inserter.insert(rows), self._timeouts.database_statement_s)
            except Exception as error:  # not only DatabaseError: nobody may wait for a writer that died
                self._refuse(batch, str(error))
                await self._reconnect(str(error))
            for unit in batch:
                if not unit.committed.done():
                    unit.committed.set_result(None)

    def _take(self, most_rows: int) -> list[_Unit]:
        batch: list[_Unit] = []
        taken = 0
        while self._queue and taken < most_rows:
            batch.append(self._queue.popleft())
            taken += len(batch[-1].rows)
        self._queued -= taken
        if not self._queue and not self._closing:
            self._wanted.clear()
        return batch

    def _refuse(self, units: Sequence[_Unit], why: str) -> None:
        for unit in units:
            if not unit.committed.done():
                unit.committed.set_exception(DatabaseError(why))

    async def _reconnect(self, why: str) -> None:
        self._away = why
        self._refuse(self._take(self._most_queued), why)
        pause_s = 0.05
        while True:
            await asyncio.sleep(pause_s)
            try:
                await self._in_thread(self._inserter.open, self._timeouts.database_connect_s)
                break
            except Exception as error:
                self._away = str(error)
                pause_s = min(2 * pause_s, 1.0)
        self._away = None

    async def _in_thread(self, work: Callable[[], None], timeout_s: float) -> None:
        """Run `work` beside the event loop; when it hangs, cut the connection under it."""
        running = asyncio.get_running_loop().run_in_executor(self._thread, work)
        done, _ = await asyncio.wait([running], timeout=timeout_s + _CUT_S)
        if not done:
            self._inserter.cut()
            await asyncio.wait([running], timeout=_CUT_S)
        if not running.done():
            running.cancel()
            raise DatabaseError(f"The database did not answer within {timeout_s:g} s. Check that it is not frozen.")
        with database_errors("rows were written"):
            running.result()


class _Inserter:
    """Blocking inserts over one connection of its own."""

    def __init__(self, database: AsyncEngine) -> None:
        self._database = database
        self._connection: psycopg.Connection | sqlite3.Connection | None = None
        self._cut = False
        plan = _postgresql_insert if database.dialect.name == "postgresql" else _sqlite_insert
        moment = datetime.isoformat if database.dialect.name == "postgresql" else _sqlite_moment
        self._sql = {table.name: plan(table) for table in metadata.tables.values()}
        self._keys = {table.name: [c.name for c in table.primary_key] for table in metadata.tables.values()}
        self._columns = {table.name: frozenset(table.columns.keys()) for table in metadata.tables.values()}
        self._defaults = {
            table.name: {c.name: c.default.arg for c in table.columns if c.default is not None and c.default.is_scalar}
            for table in metadata.tables.values()
        }

        def default(value: object) -> str:
            if isinstance(value, datetime) and value.tzinfo is not None:
                return moment(value)
            raise TypeError(f"{type(value).__name__} is no JSON, nor a moment with a time zone")

        self._to_json = json.JSONEncoder(
            ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=default
        ).encode

    def encode(self, write: Write) -> _Row:
        """The row as JSON, checked for what no database of ours can hold. Raises RowRefused."""
        try:
            if not write.row.keys() <= self._columns[write.table]:
                raise ValueError("it has a column that the table has not")
            text = self._to_json({**self._defaults[write.table], **write.row})
            if not text.isascii():
                text.encode()  # a lone surrogate has no UTF-8
            if "\\u0000" in text and _NUL.search(text):
                raise ValueError("it has a NUL")
            return _Row(write.table, tuple([write.row[name] for name in self._keys[write.table]]), text)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            cause = "it has a lone surrogate" if isinstance(error, UnicodeEncodeError) else error
            raise RowRefused(f"A row for {write.table} cannot be stored: {cause}. Mend it before it is written.") from None

    def open(self) -> None:
        self.close()
        self._cut = False
        self._connection = connect_writer(self._database)
        self._connection.execute("SELECT 1")

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def cut(self) -> None:
        """Make a call that hangs in the other thread fail."""
        self._cut = True
        if isinstance(self._connection, sqlite3.Connection):
            self._connection.interrupt()
        elif self._connection is not None:
            with suppress(psycopg.Error, OSError), socket.fromfd(self._connection.fileno(), 0, 0) as wire:
                wire.shutdown(socket.SHUT_RDWR)

    def insert(self, rows: list[_Row]) -> None:
        """Commit `rows` and set their outcomes. A connection that was closed meanwhile is opened again, once."""
        try:
            self._insert_by_table(rows)
        except psycopg.OperationalError:
            if self._cut or not (isinstance(self._connection, psycopg.Connection) and self._connection.closed):
                raise
            self.open()
            self._insert_by_table([row for row in rows if row.outcome is None])

    def _insert_by_table(self, rows: list[_Row]) -> None:
        by_table: dict[str, list[_Row]] = {}
        for row in rows:
            by_table.setdefault(row.table, []).append(row)
        for table, its_rows in by_table.items():
            self._insert_or_halve(table, its_rows)

    def _insert_or_halve(self, table: str, rows: list[_Row]) -> None:
        try:
            self._insert_at_once(table, rows)
        except _ROW_ERRORS:
            if len(rows) == 1:
                rows[0].outcome = Outcome.REFUSED
                return
            middle = len(rows) // 2
            self._insert_or_halve(table, rows[:middle])
            self._insert_or_halve(table, rows[middle:])

    def _insert_at_once(self, table: str, rows: list[_Row]) -> None:
        batch = "[" + ",".join([row.text for row in rows]) + "]"
        if self._connection is None:
            raise sqlite3.OperationalError("the connection is closed")
        stored = set(self._connection.execute(self._sql[table], (batch,)).fetchall())
        for row in rows:
            row.outcome = Outcome.STORED if row.key in stored else Outcome.DUPLICATE
            stored.discard(row.key)


def _postgresql_insert(table: Table) -> str:
    columns = ", ".join(f'"{c.name}"' for c in table.columns)
    types = ", ".join(f'"{c.name}" {c.type.compile(postgresql.dialect())}' for c in table.columns)
    return (
        f"INSERT INTO {table.name} ({columns}) SELECT {columns} FROM json_to_recordset(%s::json) AS r({types}) "
        f"ON CONFLICT DO NOTHING RETURNING {_key(table)}"
    )


def _sqlite_insert(table: Table) -> str:
    columns = ", ".join(f'"{c.name}"' for c in table.columns)
    values = ", ".join(f"json_extract(value, '$.{c.name}')" for c in table.columns)
    return (
        f"INSERT INTO {table.name} ({columns}) SELECT {values} FROM json_each(?) WHERE true "
        f"ON CONFLICT DO NOTHING RETURNING {_key(table)}"
    )


def _key(table: Table) -> str:
    return ", ".join(f'"{c.name}"' for c in table.primary_key)


def _sqlite_moment(value: datetime) -> str:
    return value.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "microseconds")
