"""What a log file is read into: searches, repeats of a search, and rows that are set aside with their bytes.

It knows no format and no database.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import BinaryIO

_NUMBER = re.compile(r"-?\d{1,15}(\.\d{1,9})?", re.ASCII)
_ISO_DATE_DIGITS = 8  # 20261120 is a day, not a second of August 1970
_MILLISECONDS_FROM = 1e11  # as seconds this is the year 5138, as milliseconds 1973


class Fault(StrEnum):
    """Why a row cannot be imported as it is."""

    UNREADABLE = "unreadable"
    NOT_UTF8 = "not UTF-8"
    NO_TIME = "no time"
    NO_QUERY = "no query"
    TOO_LONG = "too long"
    REFUSED = "refused by the database"


@dataclass(frozen=True, slots=True)
class RawRow:
    """A row that reads as a search. `number`: of its line or record, from 1. `raw`: its bytes, unaltered."""

    number: int
    raw: bytes
    query: str
    user: str | None = None
    session: str | None = None
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Repeat:
    """A row that only adds a click to the search before it."""

    number: int


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that cannot be imported. `reason` quotes nothing of it; `raw` is all of it."""

    number: int
    raw: bytes
    fault: Fault
    reason: str


@dataclass(frozen=True, slots=True)
class Head:
    """Bytes before the first row that a file of rejected rows needs too, such as the names of the columns."""

    raw: bytes


Item = RawRow | Repeat | Rejected | Head


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """How to read. `columns`: name in the file of query, user_id, session_id, at. `starting_at`: gives times a date."""

    columns: Mapping[str, str] = field(default_factory=dict)
    starting_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFormat:
    """One kind of log file.

    `read` yields an item a row and never raises for a bad one; it raises ConfigurationError when the file as a whole
    is of another kind. `row_end`: what must stand between two rows in a file.
    """

    name: str
    read: Callable[[BinaryIO, ReadOptions], Iterator[Item]]
    row_end: bytes = b"\n"


class BadRow(Exception):  # caught where rows are read; never seen outside
    """A row cannot be used; becomes a `Rejected`."""

    def __init__(self, fault: Fault, reason: str) -> None:
        super().__init__(reason)
        self.fault = fault


def decode(raw: bytes) -> str:
    """`raw` as text. Raises BadRow when it is not UTF-8."""
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise BadRow(Fault.NOT_UTF8, f"byte {error.start + 1} of the row is not UTF-8") from None


def moment(text: str) -> datetime | None:
    """A moment in ISO 8601, or seconds or milliseconds since 1970, UTC where no zone is said; None for no text.

    Raises:
        BadRow: It is none of these, or not in the years 1 to 9999.
    """
    text = text.strip().removesuffix(" UTC")
    if not text:
        return None
    try:
        if _NUMBER.fullmatch(text) and len(text) != _ISO_DATE_DIGITS:
            return since_1970(float(text))
        found = datetime.fromisoformat(text)
        return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise BadRow(Fault.NO_TIME, "its time is neither ISO 8601 nor a number since 1970") from None


def since_1970(number: float) -> datetime:
    """The moment that is `number` seconds, or where that is too far milliseconds, after 1970. May raise OverflowError."""
    return datetime.fromtimestamp(number / 1000 if abs(number) >= _MILLISECONDS_FROM else number, UTC)
