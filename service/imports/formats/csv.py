"""Comma-separated values with a line of names first: query, and user_id, session_id, at where the log has them.

Names may be others (`--columns`). Commas, semicolons or tabs separate, whichever the first line has most of. Quotes
are as in RFC 4180; a quoted field may have line breaks in it.
"""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from service.contract.errors import ConfigurationError
from service.imports.columns import find_columns
from service.imports.lines import TOO_LONG, Line, lines
from service.imports.rows import BadRow, Fault, Head, Item, LogFormat, RawRow, ReadOptions, Rejected, decode, moment


@dataclass(frozen=True, slots=True)
class _Header:
    delimiter: str
    width: int
    place: dict[str, int]

    def value(self, fields: Sequence[str], column: str) -> str:
        return fields[self.place[column]] if column in self.place else ""


class _Feed:
    """Gives lines to the parser, and keeps their bytes until the record that they make is taken."""

    def __init__(self, rest: Iterator[Line]) -> None:
        self._rest = rest
        self._taken: list[Line] = []

    def __iter__(self) -> Iterator[str]:
        for line in self._rest:
            self._taken.append(line)
            yield line.raw.decode(errors="surrogateescape")

    def take(self) -> tuple[int, bytes, bool]:
        """Number of its first line, bytes of all its lines, and whether these are whole."""
        lines, self._taken = self._taken, []
        return lines[0].number, b"".join(line.raw for line in lines), all(line.is_whole for line in lines)


def read(file: BinaryIO, options: ReadOptions) -> Iterator[Item]:
    """One search a record."""
    rest = lines(file)
    first = next(rest, None)
    if first is None:
        return
    header = _header(first, options)
    yield Head(first.raw)
    feed = _Feed(rest)
    records = csv.reader(feed, delimiter=header.delimiter, strict=True)
    while True:
        try:
            fields, problem = next(records), ""
        except StopIteration:
            return
        except csv.Error as error:
            fields, problem = [], f"it is not as RFC 4180 says, usually for a quote that is not closed: {error}"
        number, raw, is_whole = feed.take()
        problem = problem if is_whole else TOO_LONG
        if raw.strip():
            yield _row(header, fields, problem, number, raw)


def _header(line: Line, options: ReadOptions) -> _Header:
    try:
        text = line.without_bom().decode()
        delimiter = max(",;\t", key=text.count)
        names = [name.strip() for name in next(csv.reader([text], delimiter=delimiter, strict=True), [])]
    except (UnicodeDecodeError, csv.Error):
        raise ConfigurationError(
            "The first line cannot be read as names of columns. Write a first line such as query,user_id,session_id,at, "
            "in UTF-8."
        ) from None
    found = find_columns(names, options.columns)
    return _Header(delimiter, len(names), {column: names.index(name) for column, name in found.items()})


def _row(header: _Header, fields: list[str], problem: str, number: int, raw: bytes) -> RawRow | Rejected:
    try:
        decode(raw)
        if problem:
            raise BadRow(Fault.UNREADABLE, problem)
        if len(fields) != header.width:
            raise BadRow(Fault.UNREADABLE, f"it has {len(fields)} fields, and the first line has {header.width}")
        return RawRow(
            number=number,
            raw=raw,
            query=header.value(fields, "query"),
            user=header.value(fields, "user_id").strip() or None,
            session=header.value(fields, "session_id").strip() or None,
            at=moment(header.value(fields, "at")),
        )
    except BadRow as bad:
        return Rejected(number, raw, bad.fault, str(bad))


FORMAT = LogFormat(name="csv", read=read)
