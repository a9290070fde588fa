"""Inserts many rows in one statement, and tells for each whether it was new.

Blocking, over one connection of its own. It knows nothing about callers, queues or what the rows mean.
"""

import json
import re
import socket
import sqlite3
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import psycopg
from sqlalchemy import Table
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.sql.schema import ScalarElementColumnDefault

from service.contract.database import connect_writer
from service.contract.errors import RowRefused
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


class Outcome(StrEnum):
    """What became of a row. `REFUSED`: the database cannot hold it, today or ever."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """One row for the table of that name. Columns that are left out take their default, or null."""

    table: str
    row: Mapping[str, Any]


@dataclass(slots=True)
class Row:
    """One row on its way. `key`: values of its primary key. `text`: the row as a JSON object."""

    table: str
    key: tuple[Any, ...]
    text: str
    outcome: Outcome | None = None


class Inserter:
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
        self._defaults = {table.name: _scalar_defaults(table) for table in metadata.tables.values()}

        def default(value: object) -> str:
            if isinstance(value, datetime) and value.tzinfo is not None:
                return moment(value)
            raise TypeError(f"{type(value).__name__} is no JSON, nor a moment with a time zone")

        self._to_json = json.JSONEncoder(
            ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=default
        ).encode

    def encode(self, write: Write) -> Row:
        """Return the row as JSON, checked for what no database of ours can hold. Raises RowRefused."""
        try:
            if not write.row.keys() <= self._columns[write.table]:
                raise ValueError("it has a column that the table has not")
            text = self._to_json({**self._defaults[write.table], **write.row})
            if not text.isascii():
                text.encode()  # a lone surrogate has no UTF-8
            if "\\u0000" in text and _NUL.search(text):
                raise ValueError("it has a NUL")
            return Row(write.table, tuple([write.row[name] for name in self._keys[write.table]]), text)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            cause = "it has a lone surrogate" if isinstance(error, UnicodeEncodeError) else error
            raise RowRefused(
                f"A row for {write.table} cannot be stored: {cause}. Mend it before it is written."
            ) from None

    def open(self) -> None:
        """Connect, and prove that writing is possible; an open connection is closed first."""
        self.close()
        self._cut = False
        self._connection = connect_writer(self._database)
        self._connection.execute("BEGIN" if self._database.dialect.name == "postgresql" else "BEGIN IMMEDIATE")
        self._connection.execute("ROLLBACK")

    def close(self) -> None:
        """Disconnect. May be called twice."""
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

    def insert(self, rows: list[Row]) -> None:
        """Commit `rows` and set their outcomes. A connection that was closed meanwhile is opened again, once."""
        try:
            self._insert_by_table(rows)
        except psycopg.OperationalError:
            if self._cut or not (isinstance(self._connection, psycopg.Connection) and self._connection.closed):
                raise
            self.open()
            self._insert_by_table([row for row in rows if row.outcome is None])

    def _insert_by_table(self, rows: list[Row]) -> None:
        by_table: dict[str, list[Row]] = {}
        for row in rows:
            by_table.setdefault(row.table, []).append(row)
        for table, its_rows in by_table.items():
            self._insert_or_halve(table, its_rows)

    def _insert_or_halve(self, table: str, rows: list[Row]) -> None:
        try:
            self._insert_at_once(table, rows)
        except _ROW_ERRORS:
            if len(rows) == 1:
                rows[0].outcome = Outcome.REFUSED
                return
            middle = len(rows) // 2
            self._insert_or_halve(table, rows[:middle])
            self._insert_or_halve(table, rows[middle:])

    def _insert_at_once(self, table: str, rows: list[Row]) -> None:
        batch = "[" + ",".join([row.text for row in rows]) + "]"
        if self._connection is None:
            raise sqlite3.OperationalError("the connection is closed")
        stored = set(self._connection.execute(self._sql[table], (batch,)).fetchall())
        for row in rows:
            row.outcome = Outcome.STORED if row.key in stored else Outcome.DUPLICATE
            stored.discard(row.key)


def _postgresql_insert(table: Table) -> str:
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    names = [f'"{c.name}"' for c in table.columns]
    types = [f'"{c.name}" {c.type.compile(dialect)}' for c in table.columns]
    return _insert(table, names, f"json_to_recordset(%s::json) AS r({', '.join(types)})")


def _sqlite_insert(table: Table) -> str:
    return _insert(table, [f"json_extract(value, '$.{c.name}')" for c in table.columns], "json_each(?)")


def _insert(table: Table, values: list[str], source: str) -> str:
    columns = ", ".join(f'"{c.name}"' for c in table.columns)
    key = ", ".join(f'"{c.name}"' for c in table.primary_key)
    return (  # every name is one of our own tables'
        f"INSERT INTO {table.name} ({columns}) SELECT {', '.join(values)} FROM {source} WHERE true "  # noqa: S608
        f"ON CONFLICT DO NOTHING RETURNING {key}"
    )


def _scalar_defaults(table: Table) -> dict[str, Any]:
    return {c.name: c.default.arg for c in table.columns if isinstance(c.default, ScalarElementColumnDefault)}


def _sqlite_moment(value: datetime) -> str:
    return value.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "microseconds")
