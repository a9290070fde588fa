"""User Behavior Insights: one JSON object a line, as exported from the index `ubi_queries`.

It reads the fields of UBI 1.3's query: user_query, client_id, timestamp, query_id, and session_id in query_attributes.
A line may also be a search engine's document, with those fields in `_source`. Lines in a row that have one query_id
and one user_query are one search. The person is `client_id`: the browser, or the user where the product says so.
"""

import json
from collections.abc import Iterator
from typing import Any, BinaryIO

from service.imports.lines import Line, read_lines
from service.imports.rows import BadRow, Fault, Item, LogFormat, RawRow, ReadOptions, Repeat, decode, moment


def read(file: BinaryIO, options: ReadOptions) -> Iterator[Item]:
    """One search a line, less those that repeat the query before them."""
    previous: tuple[str, str] | None = None

    def parse(line: Line) -> RawRow | Repeat:
        nonlocal previous
        fields = _fields(line)
        row = _row(line, fields)
        identity = (str(fields["query_id"]), row.query) if fields.get("query_id") else None
        is_repeat = identity is not None and identity == previous
        previous = identity
        return Repeat(line.number) if is_repeat else row

    return read_lines(file, parse)


def _fields(line: Line) -> dict[str, Any]:
    try:
        value = json.loads(decode(line.without_bom()))
    except (ValueError, RecursionError):
        raise BadRow(Fault.UNREADABLE, "the line is not one JSON value") from None
    if isinstance(value, dict) and isinstance(value.get("_source"), dict):
        value = value["_source"]
    if not isinstance(value, dict):
        raise BadRow(Fault.UNREADABLE, "the line is not a JSON object")
    return value


def _row(line: Line, fields: dict[str, Any]) -> RawRow:
    query = fields.get("user_query")
    if query is None:
        raise BadRow(Fault.NO_QUERY, "it has no user_query; events of ubi_events have none")
    if not isinstance(query, str):
        raise BadRow(Fault.UNREADABLE, "its user_query is not a text")
    attributes = fields.get("query_attributes")
    session = fields.get("session_id") or (attributes.get("session_id") if isinstance(attributes, dict) else None)
    return RawRow(
        number=line.number,
        raw=line.raw,
        query=query,
        user=_name(fields.get("client_id")),
        session=_name(session),
        at=moment("" if fields.get("timestamp") is None else str(fields["timestamp"])),
    )


def _name(value: object) -> str | None:
    return (str(value).strip() or None) if isinstance(value, str | int) and not isinstance(value, bool) else None


FORMAT = LogFormat(name="ubi", read=read)
