"""Parquet with a column query, and user_id, session_id, at where the log has them; names may be others (`--columns`).

Times are timestamps, dates, texts, or numbers since 1970. Rejected rows are kept as an Arrow IPC stream of these
columns, which is read here too, so that they can be mended and imported.
"""

import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from service.contract.errors import ConfigurationError
from service.imports.columns import find_columns
from service.imports.rows import (
    BadRow,
    Fault,
    Head,
    Item,
    LogFormat,
    RawRow,
    ReadOptions,
    Rejected,
    decode,
    moment,
    since_1970,
)

_MAGIC = b"PAR1"
_BATCH_ROWS = 10_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECONDS: dict[str, int | Fraction] = {"s": 1_000_000, "ms": 1_000, "us": 1, "ns": Fraction(1, 1_000)}
_MICROSECONDS_A_DAY = 86_400_000_000


def read(file: BinaryIO, options: ReadOptions) -> Iterator[Item]:
    """One search a row.

    Raises:
        ConfigurationError: The file is neither Parquet nor an Arrow stream, is damaged, or has no such columns.
    """
    magic = file.read(len(_MAGIC))
    file.seek(0)
    if not magic:
        return
    try:
        batches = _parquet(file, options) if magic == _MAGIC else _stream(file, options)
        yield from _rows(batches, options)
    except (pa.ArrowException, OSError) as error:
        raise ConfigurationError(
            f"The file cannot be read as Parquet: {str(error).splitlines()[0]}. Usually it was cut off, or it is of "
            "another format."
        ) from error


def _parquet(file: BinaryIO, options: ReadOptions) -> Iterator[pa.RecordBatch]:
    parquet = pq.ParquetFile(file)
    columns = find_columns(parquet.schema_arrow.names, options.columns)
    yield from parquet.iter_batches(_BATCH_ROWS, columns=list(columns.values()))


def _stream(file: BinaryIO, options: ReadOptions) -> Iterator[pa.RecordBatch]:
    with pa.ipc.open_stream(file) as stream:
        columns = find_columns(stream.schema.names, options.columns)
        for batch in stream:
            yield batch.select(list(columns.values()))


def _rows(batches: Iterator[pa.RecordBatch], options: ReadOptions) -> Iterator[Item]:
    number = 0
    for batch in batches:
        plain = _without_dictionaries(batch)
        columns = find_columns(plain.schema.names, options.columns)
        if number == 0:
            yield Head(plain.schema.serialize().to_pybytes())
        values = {column: _values(plain.column(name)) for column, name in columns.items()}
        tick = _tick(plain.column(columns["at"]).type) if "at" in columns else None
        for index in range(plain.num_rows):
            number += 1
            row = {column: of_column[index] for column, of_column in values.items()}
            yield _row(number, row, tick, plain.slice(index, 1).serialize().to_pybytes())


def _row(number: int, row: dict[str, Any], tick: int | Fraction | None, raw: bytes) -> RawRow | Rejected:
    try:
        user, session = (_text(row.get(column)).strip() or None for column in ("user_id", "session_id"))
        return RawRow(number, raw, _text(row["query"]), user, session, _moment(row.get("at"), tick))
    except BadRow as bad:
        return Rejected(number, raw, bad.fault, str(bad))


def _without_dictionaries(batch: pa.RecordBatch) -> pa.RecordBatch:
    columns = [c.dictionary_decode() if pa.types.is_dictionary(c.type) else c for c in batch.columns]
    return pa.record_batch(columns, batch.schema.names)


def _values(column: pa.Array) -> list[Any]:
    """Texts as bytes, for they may not be UTF-8; times as whole ticks, for they may be out of the years of Python."""
    kind = column.type
    if _tick(kind):
        return list(column.cast(pa.int32() if kind == pa.date32() else pa.int64()).to_pylist())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return list(column.cast(pa.large_binary()).to_pylist())
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_null(kind):
        return list(column.to_pylist())
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return list(column.to_pylist())
    raise ConfigurationError(
        f"A column of type {kind} is neither a text, a number nor a time. Export it as one of these."
    )


def _tick(kind: pa.DataType) -> int | Fraction | None:
    """Microseconds that a type of times counts in; None for other types."""
    if pa.types.is_timestamp(kind):
        return _MICROSECONDS[kind.unit]
    days: dict[pa.DataType, int | Fraction] = {pa.date32(): _MICROSECONDS_A_DAY, pa.date64(): _MICROSECONDS["ms"]}
    return days.get(kind)


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bytes):
        return decode(value)
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)  # 12.0 was 12 once


def _moment(value: Any, tick: int | Fraction | None) -> datetime | None:
    try:
        if value is None or isinstance(value, bytes):
            return moment(_text(value))
        if tick is None:
            return None if math.isnan(value) else since_1970(float(value))
        return _EPOCH + timedelta(microseconds=int(value * tick))
    except (ValueError, OverflowError):
        raise BadRow(Fault.NO_TIME, "its time is not in the years 1 to 9999") from None


FORMAT = LogFormat(name="parquet", read=read, row_end=b"")
