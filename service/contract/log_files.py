"""Writes the rows of a window of the log as Parquet, one file a table and UTC day, the same bytes from both databases.

It knows nothing about manifests, nor about where the files end up; `service/contract/snapshot.py` is who calls it.
"""

import json
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import JSON, Column, ColumnElement, Integer, Row, Select, Table, Text, cast, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from service.contract.database import database_errors, timeouts_of
from service.contract.query_text import match_key, query_id
from service.contract.tables import UtcDateTime, clicks, impressions, searches

TABLES = (searches, impressions, clicks)

_FETCHED_ROWS = 2_000  # of half a megabyte each at worst
_GROUP_ROWS = 100_000  # DuckDB's guide to Parquet: a larger row group gains little
_GROUP_BYTES = 64 << 20
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """The rows of `tenant` in [since, until)."""

    since: datetime
    until: datetime
    tenant: str

    def of(self, query: Select[Any], table: Table) -> Select[Any]:
        """`query` over the rows of this window only."""
        return query.where(table.c.at >= self.since, table.c.at < self.until, table.c.tenant == self.tenant)


async def write_log(database: AsyncEngine, window: Window, directory: Path) -> dict[str, dict[str, int]]:
    """Write `<table>/<day>.parquet` into `directory`; returns the rows of each table and day.

    Rows stand in the order of (at, primary key). Memory stays flat: row groups are bounded in rows and bytes.

    Raises:
        DatabaseError: The database is away.
        OSError: `directory` cannot be written.
    """
    async with aclosing(await _one_view(database)) as connection:
        return {
            table.name: {
                day.isoformat(): await _write_day(connection, table, part, directory / file_name(table.name, day))
                async for day, part in _days(connection, table, window)
            }
            for table in TABLES
        }


def write_rows(table: Table, day: date, rows: Iterable[Mapping[str, Any]], directory: Path) -> int:
    """Write rows of `table` that are all of one UTC day, in any order, as `write_log` would; returns their number."""
    columns, schema = _columns(table), schema_of(table)
    keys = [column.name for column in table.primary_key]
    in_order = sorted(rows, key=lambda row: (row["at"], *(row[key] for key in keys)))
    values = [
        tuple(_as_text(row[c.name]) if isinstance(c.type, JSON) else row[c.name] for c in columns) for row in in_order
    ]
    path = directory / file_name(table.name, day)
    path.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for start in range(0, len(values), _GROUP_ROWS):
            batch = _to_batch(table, schema, values[start : start + _GROUP_ROWS])
            writer.write_table(pa.Table.from_batches([batch]), _GROUP_ROWS)
    return len(values)


def file_name(table: str, day: date) -> str:
    """Where the rows of one table and UTC day are."""
    return f"{table}/{day.isoformat()}.parquet"


def schema_of(table: Table) -> pa.Schema:
    """The columns of the files of `table`: its own but the tenant; searches have the `query_id` of their match key."""
    fields = [pa.field(c.name, _arrow_type(c), nullable=bool(c.nullable)) for c in _columns(table)]
    if table is searches:
        fields.append(pa.field("query_id", pa.int64(), nullable=False))
    return pa.schema(fields)


async def _one_view(database: AsyncEngine) -> AsyncConnection:
    """A connection that sees the log as it is now until it is closed, whatever is written or erased meanwhile."""
    wait_ms = round(10_000 * timeouts_of(database).database_statement_s)  # one fetch may pass over a whole day
    begin = {
        "sqlite": ["BEGIN"],
        "postgresql": [
            "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY",
            f"SET LOCAL statement_timeout = {wait_ms}",
        ],
    }
    with database_errors("a snapshot was begun"):
        connection = await database.connect()
        for statement in begin[database.dialect.name]:
            await connection.exec_driver_sql(statement)
    return connection


async def _days(connection: AsyncConnection, table: Table, window: Window) -> AsyncIterator[tuple[date, Window]]:
    """Each UTC day of the window that has rows, with its part of the window."""
    since = window.since
    while since < window.until:
        rest = Window(since=since, until=window.until, tenant=window.tenant)
        query = rest.of(select(table.c.at), table).order_by(table.c.at).limit(1)
        with database_errors("the days of the log were read"):
            first: datetime | None = (await connection.execute(query)).scalar()
        if first is None:
            return
        midnight = datetime.combine(first, time(), UTC)
        until = min(midnight + _DAY, window.until)
        yield midnight.date(), Window(since=first, until=until, tenant=window.tenant)
        since = until


async def _write_day(connection: AsyncConnection, table: Table, window: Window, path: Path) -> int:
    schema, rows, group = schema_of(table), 0, list[pa.RecordBatch]()
    path.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        async for fetched in _fetch(connection, table, window):
            rows += len(fetched)
            group.append(_to_batch(table, schema, fetched))
            if sum(b.num_rows for b in group) >= _GROUP_ROWS or sum(b.nbytes for b in group) >= _GROUP_BYTES:
                writer.write_table(pa.Table.from_batches(group), _GROUP_ROWS)
                group.clear()
        if group:
            writer.write_table(pa.Table.from_batches(group), _GROUP_ROWS)
    return rows


async def _fetch(connection: AsyncConnection, table: Table, window: Window) -> AsyncIterator[Sequence[Row[Any]]]:
    # By the bytes of UTF-8, as SQLite does; a PostgreSQL database may have been created with any other order.
    collation = "C" if connection.dialect.name == "postgresql" else "BINARY"
    key = [c.collate(collation) if isinstance(c.type, Text) else c for c in table.primary_key]
    query = window.of(select(*map(_as_selected, _columns(table))), table).order_by(table.c.at, *key)
    with database_errors("the log was read"):
        result = await connection.stream(query)
        async for rows in result.partitions(_FETCHED_ROWS):
            yield rows


def _columns(table: Table) -> list[Column[Any]]:
    return [column for column in table.columns if column.name != "tenant" and not column.info.get("reported")]


def _as_selected(column: Column[Any]) -> ColumnElement[Any]:
    return cast(column, Text).label(column.name) if isinstance(column.type, JSON) else column


def _arrow_type(column: Column[Any]) -> pa.DataType:
    if isinstance(column.type, UtcDateTime):
        return pa.timestamp("us", tz="UTC")
    return pa.int64() if isinstance(column.type, Integer) else pa.string()


def _as_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _to_batch(table: Table, schema: pa.Schema, rows: Sequence[Row[Any]] | Sequence[tuple[Any, ...]]) -> pa.RecordBatch:
    values: dict[str, Iterable[Any]] = dict(zip(schema.names, zip(*rows, strict=True), strict=False))
    for column in _columns(table):
        if isinstance(column.type, JSON):
            values[column.name] = map(_canonical, values[column.name])
    if table is searches:  # rows may have been written under an older rule than match_key has today
        keys = [match_key(query) for query in values["query"]]
        values |= {"match_key": keys, "query_id": map(query_id, keys)}
    return pa.record_batch([pa.array(values[f.name], f.type) for f in schema], schema=schema)


def _canonical(text: str) -> str:
    """The one way to write a JSON value; PostgreSQL stores its numbers as decimals, SQLite as they were written."""
    value = json.loads(text, parse_float=_number)
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def _number(literal: str) -> float | int:
    # PostgreSQL knows no -0.0, and gives 1e+16, as Python writes it, back as an integer.
    number = Decimal(literal)
    return int(number) if "e" in literal and number == int(number) else float(number) or 0.0
