"""Says what the counts of a log mean: a sentence for each thing that can be wrong with one.

It reads nothing itself. A check fails when rows are set aside or there are none; it warns when they are imported but
should be looked at.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from service.imports.rows import Fault
from service.imports.tally import EARLIEST, HUGE_SESSION, Tally

_NAMED = 3
_FAULTS = {
    Fault.UNREADABLE: ("readable rows", "Every row could be read."),
    Fault.NOT_UTF8: ("UTF-8", "Every row is UTF-8."),
    Fault.NO_QUERY: ("queries", "Every row has a query."),
    Fault.TOO_LONG: ("length", "No query is too long."),
    Fault.REFUSED: ("storable", "The database can hold every row."),
}


class State(StrEnum):
    """How a check ended."""

    PASS = "pass"  # noqa: S105 - no password
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    name: str
    state: State
    finding: str


def check_all(tally: Tally) -> list[Check]:
    """Every check that has something to look at, in the order in which a person would mend a log."""
    whole = [_file(tally), _amount(tally)]
    if tally.rows == 0:
        return whole
    return [
        *whole,
        *_set_aside(tally),
        _times(tally),
        _clock(tally),
        _order(tally),
        _users(tally),
        _sessions(tally),
        _size(tally),
        _repetition(tally),
    ]


def _file(tally: Tally) -> Check:
    if tally.broken:
        return Check(name="file", state=State.FAIL, finding=tally.broken)
    return Check(name="file", state=State.PASS, finding="It was read to its end.")


def _amount(tally: Tally) -> Check:
    if tally.rows == 0:
        finding = "No row was read." if tally.broken else "The log is empty: there is nothing to import."
        return Check(name="amount", state=State.FAIL, finding=finding)
    if tally.searches and not tally.has_two_queries:
        finding = f"{many(tally.searches, 'search', 'searches')} of one query only: there is nothing to mine from them."
        return Check(name="amount", state=State.WARN, finding=finding)
    finding = f"{many(tally.rows, 'row', 'rows')}: {many(tally.searches, 'search', 'searches')}"
    finding += f", {many(tally.joined, 'click', 'clicks')} of the search before" if tally.joined else ""
    finding += f", {tally.faults.total():,} set aside" if tally.faults.total() else ""
    return Check(name="amount", state=State.PASS, finding=f"{finding}.")


def _set_aside(tally: Tally) -> Iterator[Check]:
    for fault, (name, sound) in _FAULTS.items():
        yield _rejecting(tally, fault, name) or Check(name=name, state=State.PASS, finding=sound)


def _rejecting(tally: Tally, fault: Fault, name: str) -> Check | None:
    if not tally.faults[fault]:
        return None
    first = tally.first[fault]
    finding = (
        f"{many(tally.faults[fault], 'row', 'rows')} set aside; the first is row {first.number:,}: {first.reason}."
    )
    return Check(name=name, state=State.FAIL, finding=finding)


def _times(tally: Tally) -> Check:
    if rejecting := _rejecting(tally, Fault.NO_TIME, "times"):
        return rejecting
    return _warn_if(
        tally.without_time,
        "times",
        "Every search has a time.",
        "{} without a time: each was given one, a second apart in the order of the file.",
    )


def _clock(tally: Tally) -> Check:
    counts = {
        "in the future": tally.in_future,
        f"before {EARLIEST.year}": tally.too_early,
        "more than a day before the one that precedes it in its session": tally.back_in_time,
    }
    found = "; ".join(f"{count:,} {what}" for what, count in counts.items() if count)
    if found:
        return Check(name="clock", state=State.WARN, finding=f"Searches at odd times: {found}. All are kept.")
    return Check(
        name="clock", state=State.PASS, finding="No time is in the future, before 2000, or jumps back by a day."
    )


def _order(tally: Tally) -> Check:
    return _warn_if(
        tally.out_of_order,
        "order",
        "Within each session, time goes forward.",
        "{} earlier than the one that precedes it in its session; all are kept, and mining sorts them.",
    )


def _users(tally: Tally) -> Check:
    has_session = tally.without_user > tally.without_both
    hint = " If each session is one person, say --sessions-are-people." if has_session else ""
    return _warn_if(
        tally.without_user,
        "users",
        "Every search has a person.",
        "{} of no known person, which count as nobody's." + hint,
    )


def _sessions(tally: Tally) -> Check:
    return _warn_if(
        tally.without_both,
        "sessions",
        "Every search has a session or a person.",
        "{} in no session and of no person, so nothing follows from them.",
    )


def _size(tally: Tally) -> Check:
    if not tally.huge:
        return Check(name="session size", state=State.PASS, finding=f"No session has over {HUGE_SESSION:,} searches.")
    largest = sorted(tally.huge.items(), key=lambda item: -item[1])[:_NAMED]
    finding = (
        f"{many(len(tally.huge), 'session', 'sessions')} of over {HUGE_SESSION:,} searches, likely of programs: "
        f"{', '.join(f'{name[:80]} ({count:,})' for name, count in largest)}. All are kept."
    )
    return Check(name="session size", state=State.WARN, finding=finding)


def _repetition(tally: Tally) -> Check:
    return _warn_if(
        tally.seen_before,
        "repetition",
        "No row says the same as another.",
        "{} with person, session, time and query of one before. All are kept.",
    )


def _warn_if(count: int, name: str, sound: str, finding: str) -> Check:
    if not count:
        return Check(name=name, state=State.PASS, finding=sound)
    return Check(name=name, state=State.WARN, finding=finding.format(many(count, "search", "searches")))


def many(count: int, one: str, more: str) -> str:
    """A count with its noun."""
    return f"{count:,} {one if count == 1 else more}"
