"""Each thing that can be wrong with a log has its check, which says how often it is so."""

from datetime import UTC, datetime, timedelta

import pytest

from service.imports import tally as module
from service.imports.checks import State, check_all
from service.imports.rows import Fault, Rejected
from service.imports.tally import HUGE_SESSION, Search, Tally
from tests.imports.logs import START

NOW = datetime(2026, 6, 1, tzinfo=UTC)


def search(
    number: int = 1,
    query: str = "rice",
    *,
    user: str | None = "u",
    session: str | None = "s",
    at: datetime = START,
    own: bool = True,
) -> Search:
    return Search(number, b"", query, query, user, session, at, own)


def said(*found: Search, rejected: tuple[Rejected, ...] = ()) -> dict[str, tuple[State, str]]:
    """Name -> state and finding of every check that did not pass."""
    tally = Tally(NOW)
    for each in found:
        tally.count(each)
    for row in rejected:
        tally.reject(row)
    return {check.name: (check.state, check.finding) for check in check_all(tally) if check.state is not State.PASS}


def sound() -> list[Search]:
    return [search(number, f"query {number}", at=START + timedelta(minutes=number)) for number in range(5)]


def test_a_sound_log_passes_every_check() -> None:
    assert said(*sound()) == {}


def test_an_empty_log_fails_with_a_clear_line() -> None:
    assert said() == {"amount": (State.FAIL, "The log is empty: there is nothing to import.")}


def test_a_log_of_one_query_is_imported_with_a_warning() -> None:
    assert said(search()) == {"amount": (State.WARN, "1 search of one query only: there is nothing to mine from them.")}
    assert said(search(), search(at=START + timedelta(minutes=1)))["amount"][0] is State.WARN


@pytest.mark.parametrize(
    ("fault", "name"),
    [
        (Fault.UNREADABLE, "readable rows"),
        (Fault.NOT_UTF8, "UTF-8"),
        (Fault.NO_TIME, "times"),
        (Fault.NO_QUERY, "queries"),
        (Fault.TOO_LONG, "length"),
        (Fault.REFUSED, "storable"),
    ],
)
def test_a_check_fails_when_rows_are_set_aside_and_names_the_first(fault: Fault, name: str) -> None:
    rejected = (Rejected(1200, b"", fault, "it is bad"), Rejected(7, b"", fault, "it is worse"))

    found = said(*sound(), rejected=rejected)

    assert found == {name: (State.FAIL, "2 rows set aside; the first is row 1,200: it is bad.")}


def test_every_fault_has_a_check() -> None:
    for fault in Fault:
        assert said(*sound(), rejected=(Rejected(1, b"", fault, "bad"),)) != {}


def test_rows_out_of_order_are_counted_within_their_session() -> None:
    minutes = [("a", 5), ("b", 1), ("a", 4), ("a", 6), ("b", 0), ("b", 2)]
    rows = [search(n, f"{n}", session=s, at=START + timedelta(minutes=m)) for n, (s, m) in enumerate(minutes)]

    found = said(*rows)

    assert set(found) == {"order"}
    assert found["order"][1].startswith("2 searches earlier than the one that precedes it in its session")


def test_clock_jumps_are_counted_and_kept() -> None:
    moments = [START, START - timedelta(days=2), NOW + timedelta(days=2), datetime(1999, 12, 31, tzinfo=UTC)]

    state, finding = said(*(search(n, f"{n}", at=at) for n, at in enumerate(moments)))["clock"]

    assert state is State.WARN
    assert "1 in the future; 1 before 2000; 2 more than a day before" in finding


def test_searches_of_nobody_are_counted_and_told_how_to_count() -> None:
    found = said(*sound(), search(8, "kyoto", user=None))

    assert found["users"] == (
        State.WARN,
        "1 search of no known person, which count as nobody's. If each session is one person, say --sessions-are-people.",
    )
    assert "sessions" not in found


def test_searches_in_no_session_and_of_nobody_are_told_apart() -> None:
    found = said(*sound(), search(8, "kyoto", user=None, session=None), search(9, "oslo", session=None))

    assert found["sessions"][1].startswith("1 search in no session and of no person")
    assert "--sessions-are-people" not in found["users"][1]


def test_times_that_only_say_an_order_are_counted() -> None:
    found = said(*sound(), search(8, "kyoto", at=START + timedelta(hours=1), own=False))

    assert found["times"] == (
        State.WARN,
        "1 search without a time: each was given one, a second apart in the order of the file.",
    )


def test_a_row_that_says_the_same_as_another_is_counted() -> None:
    found = said(*sound(), sound()[-1])

    assert found["repetition"][1].startswith("1 search with person, session, time and query of one before")


def test_a_million_searches_of_one_session_are_named_and_take_no_memory() -> None:
    tally = Tally(NOW)
    one = search(session="the bot")
    for _ in range(HUGE_SESSION):
        tally.count(one)
    before = {check.name: check.state for check in check_all(tally)}["session size"]

    for _ in range(5):
        tally.count(one)

    finding = next(check for check in check_all(tally) if check.name == "session size")
    assert (before, finding.state) == (State.PASS, State.WARN)
    assert "the bot (10,005)" in finding.finding
    assert (len(tally._courses), len(tally._seen)) == (1, 1)


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REMEMBERED", 10)
    tally = Tally(NOW)

    for number in range(1000):
        tally.count(search(number, f"q{number}", session=f"s{number}"))

    assert (len(tally._courses), len(tally._seen)) == (10, 10)
