"""The layout of the AOL log of 2006: AnonID, Query, QueryTime, ItemRank, ClickURL, with tabs between.

Each click has a row of its own; rows in a row of one person, query and time are one search. A query that is "-" was
withheld. There are no sessions. nextquery ships no row of that log: only its layout is known here.
"""

from collections.abc import Iterator
from typing import BinaryIO

from service.imports.lines import Line, Parsed, read_lines
from service.imports.rows import BadRow, Fault, Head, Item, LogFormat, RawRow, ReadOptions, Repeat, decode, moment

_FIELDS = (3, 5)  # a row without a click may leave the last two out
_HEADER = b"AnonID\tQuery\tQueryTime"


def read(file: BinaryIO, options: ReadOptions) -> Iterator[Item]:
    """One search a row, less those that add a click to the search before them."""
    previous: tuple[str, str, str] | None = None

    def parse(line: Line) -> Parsed:
        nonlocal previous
        if line.number == 1 and line.without_bom().startswith(_HEADER):
            return Head(line.raw)
        person, query, time = identity = _first_fields(line)
        if identity == previous:
            return Repeat(line.number)
        row = RawRow(line.number, line.raw, "" if query == "-" else query, person.strip() or None, None, moment(time))
        previous = identity
        return row

    return read_lines(file, parse)


def _first_fields(line: Line) -> tuple[str, str, str]:
    fields = decode(line.without_bom()).rstrip("\r\n").split("\t")
    if len(fields) not in _FIELDS:
        raise BadRow(Fault.UNREADABLE, f"it has {len(fields)} fields between tabs, not 5, nor 3 without a click")
    return fields[0], fields[1], fields[2]


FORMAT = LogFormat(name="aol", read=read)
