"""Counts what is in a log while it is read, in memory that does not grow with the log.

It knows no format and no database. Sessions and rows that were not met for long are forgotten: in a log that goes
through more than `REMEMBERED` sessions before it returns to one, what is counted within sessions may be too low.
"""

from collections import Counter, OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from service.imports.rows import Fault, Rejected

REMEMBERED = 100_000
HUGE_SESSION = 10_000
"""Searches above which a session was made by a program rather than a person."""
EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
LARGEST_JUMP = timedelta(days=1)

_MOST_HUGE = 1_000
_Key = TypeVar("_Key", bound=Hashable)
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class Search:
    """A search as it will be stored. `has_own_time`: False where its time only says its place in the log."""

    number: int
    raw: bytes
    query: str
    match_key: str
    user: str | None
    session: str | None
    at: datetime
    has_own_time: bool


@dataclass(slots=True)
class _Course:
    """A session as far as it was read."""

    last: datetime
    searches: int = 0


@dataclass(slots=True)
class Tally:
    """The counts. `broken`: why the file could not be read to its end; `first`: the first row with each fault."""

    now: datetime
    broken: str | None = None
    searches: int = 0
    joined: int = 0
    faults: Counter[Fault] = field(default_factory=Counter)
    first: dict[Fault, Rejected] = field(default_factory=dict)
    without_time: int = 0
    without_user: int = 0
    without_both: int = 0
    out_of_order: int = 0
    back_in_time: int = 0
    in_future: int = 0
    too_early: int = 0
    seen_before: int = 0
    huge: dict[str, int] = field(default_factory=dict)
    has_two_queries: bool = False
    _first_key: str | None = None
    _courses: OrderedDict[tuple[str | None, str | None], _Course] = field(default_factory=OrderedDict)
    _seen: OrderedDict[int, None] = field(default_factory=OrderedDict)

    @property
    def rows(self) -> int:
        """Rows that were read: searches, clicks that were joined to one, and rows that are set aside."""
        return self.searches + self.joined + self.faults.total()

    def reject(self, rejected: Rejected) -> None:
        """Count a row that is set aside."""
        self.faults[rejected.fault] += 1
        self.first.setdefault(rejected.fault, rejected)

    def refuse(self, rejected: Rejected) -> None:
        """Count a search as a row that is set aside after all."""
        self.searches -= 1
        self.reject(rejected)

    def count(self, search: Search) -> None:
        """Count a search."""
        self.searches += 1
        self.without_time += not search.has_own_time
        self.without_user += search.user is None
        self.without_both += search.user is None and search.session is None
        self.in_future += search.at > self.now + LARGEST_JUMP
        self.too_early += search.at < EARLIEST
        self._first_key = self._first_key or search.match_key
        self.has_two_queries |= search.match_key != self._first_key
        self._follow(search)
        content = hash((search.user, search.session, search.at, search.query))
        self.seen_before += content in self._seen
        _remember(self._seen, content, None)

    def _follow(self, search: Search) -> None:
        who = search.user, search.session
        if who == (None, None):
            return
        course = self._courses.get(who) or _Course(search.at)
        behind = course.last - search.at
        self.back_in_time += behind > LARGEST_JUMP
        self.out_of_order += timedelta(0) < behind <= LARGEST_JUMP
        course.last = search.at
        course.searches += 1
        _remember(self._courses, who, course)
        name = search.session or str(search.user)
        if course.searches > HUGE_SESSION and (name in self.huge or len(self.huge) < _MOST_HUGE):
            self.huge[name] = course.searches


def _remember(known: "OrderedDict[_Key, _Value]", key: _Key, value: _Value) -> None:
    known[key] = value
    known.move_to_end(key)
    if len(known) > REMEMBERED:
        known.popitem(last=False)
