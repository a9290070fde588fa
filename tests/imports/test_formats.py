"""Every format gives the searches of a sound log, and sets aside what it cannot read, byte by byte."""

import io
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from service.contract.errors import ConfigurationError
from service.imports.columns import parse_columns
from service.imports.formats import all_formats, get_format
from service.imports.lines import LONGEST_LINE
from service.imports.rows import Fault, Head, Item, RawRow, ReadOptions, Rejected, Repeat, moment
from tests.imports.logs import AOL, CSV, LOGS, PARQUET, START, TREC, UBI, parquet

LINE_FORMATS = ["csv", "ubi", "aol"]


def read(name: str, content: bytes, **options: Any) -> list[Item]:
    return list(get_format(name).read(io.BytesIO(content), ReadOptions(**options)))


def rows(items: list[Item]) -> list[tuple[str, str | None, str | None, datetime | None]]:
    return [(item.query, item.user, item.session, item.at) for item in items if isinstance(item, RawRow)]


def rejected(items: list[Item]) -> list[Rejected]:
    return [item for item in items if isinstance(item, Rejected)]


def minutes(count: float) -> datetime:
    return START + timedelta(minutes=count)


def test_formats_are_found_by_their_files_and_an_unknown_one_is_a_sentence() -> None:
    assert set(all_formats()) == set(LOGS)
    with pytest.raises(ConfigurationError, match="aol, csv, parquet, trec-session, ubi"):
        get_format("tsv")


def test_csv_gives_searches_with_quotes_commas_and_either_kind_of_time() -> None:
    items = read("csv", CSV)

    assert rows(items) == [
        ("how to cook rice", "u1", "s1", minutes(0)),
        ('rice, "brown" one', "u1", "s1", minutes(1)),
        ("kyoto", None, "s2", minutes(2)),
        ("kyoto in autumn", None, "s2", minutes(3)),
    ]
    assert [item.number for item in items if isinstance(item, RawRow)] == [2, 3, 4, 5]


def test_ubi_gives_the_client_as_user_and_joins_lines_of_one_query() -> None:
    items = read("ubi", UBI)

    assert rows(items) == [("red shoes", "c1", "s1", minutes(0)), ("blue shoes", "7", "s2", minutes(2))]
    assert [item.number for item in items if isinstance(item, Repeat)] == [2]


def test_aol_joins_the_clicks_of_a_search_and_knows_no_sessions() -> None:
    items = read("aol", AOL)

    assert rows(items) == [
        ("sourdough starter", "9001", None, minutes(0)),
        ("sourdough bread", "9001", None, minutes(4)),
        ("", "9002", None, minutes(60)),  # withheld in the log; set aside later for want of a query
        ("rye bread", "9002", None, minutes(61)),
    ]
    assert [item.number for item in items if isinstance(item, Repeat)] == [3]


def test_trec_sessions_give_times_of_day_a_date_and_go_past_midnight() -> None:
    items = read("trec-session", TREC, starting_at=START)

    midnight = datetime(2026, 1, 6, tzinfo=UTC)
    assert rows(items) == [
        ("rice & beans", "w7", "sessiontrack2030:1", midnight - timedelta(seconds=89.5)),
        ("rice and beans recipe", "w7", "sessiontrack2030:1", midnight + timedelta(seconds=10)),
        ("kyoto", None, "sessiontrack2030:2", START),
    ]


def test_trec_times_of_day_without_a_date_are_set_aside() -> None:
    faults = {item.fault for item in rejected(read("trec-session", TREC))}

    assert faults == {Fault.NO_TIME}


def test_trec_reads_past_an_interaction_that_is_not_closed_and_keeps_it_in_its_session() -> None:
    broken = TREC.replace(b"</interaction>\n    <currentquery", b"\n    <currentquery")

    items = read("trec-session", broken, starting_at=START)

    (bad,) = rejected(items)
    assert [row[0] for row in rows(items)] == ["rice and beans recipe", "kyoto"]
    assert bad.raw.startswith(b'<session num="1" starttime="23:58:00.000000" userid="w7"><interaction num="1"')
    assert bad.raw.endswith(b"</session>")


def test_trec_is_read_alike_however_the_file_is_cut_into_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = read("trec-session", TREC, starting_at=START)

    for size in (1, 7, 64):
        monkeypatch.setattr("service.imports.formats.trec_session._CHUNK", size)
        assert read("trec-session", TREC, starting_at=START) == whole


def test_trec_expands_no_entity_of_a_document_type() -> None:
    bomb = (
        b'<!DOCTYPE x [<!ENTITY a "aaaa">]><sessiontrack><session num="1"><interaction><query>&a;</query></interaction>'
    )

    assert rows(read("trec-session", bomb)) == [("&a;", None, "sessiontrack:1", None)]


def test_parquet_gives_searches_with_numbers_as_names() -> None:
    assert rows(read("parquet", PARQUET)) == [
        ("how to cook rice", "7", "s1", START),
        ("kyoto", None, "s2", START),
        ("kyoto in autumn", None, "s2", START),
    ]


@pytest.mark.parametrize(
    ("at", "moment_"),
    [
        (pa.array([START.timestamp()]), START),
        (pa.array([START.timestamp() * 1000]), START),
        (pa.array([int(START.timestamp())]), START),
        (pa.array(["2026-01-05T11:00:00+01:00"]), START),
        (pa.array(["2026-01-05T10:00:00"]).dictionary_encode(), START),
        (pa.array([START.replace(tzinfo=None)], pa.timestamp("ms")), START),
        (pa.array([date(2026, 1, 5)]), START.replace(hour=0)),
        (pa.array([date(1969, 12, 31)]), datetime(1969, 12, 31, tzinfo=UTC)),
        (pa.array([float("nan")]), None),
        (pa.nulls(1), None),
    ],
)
def test_parquet_takes_any_type_of_time(at: pa.Array, moment_: datetime | None) -> None:
    assert rows(read("parquet", parquet(query=["rice"], at=at))) == [("rice", None, None, moment_)]


def test_parquet_gives_a_number_that_was_whole_back_as_it_was() -> None:
    content = parquet(query=["rice", "beans"], user_id=pa.array([12.0, float("nan")]))

    assert [row[1] for row in rows(read("parquet", content))] == ["12", None]


def test_rejected_rows_of_parquet_can_be_read_again_from_their_bytes() -> None:
    queries = pa.array([b"rice", b"\xff", b"beans", b"\xfe"], pa.binary()).view(pa.string())
    (head, *items) = read("parquet", parquet(query=queries, session_id=pa.array(["a", "b", "c", "d"]), other=[1] * 4))
    assert isinstance(head, Head)

    again = read("parquet", head.raw + b"".join(item.raw for item in rejected(items)))

    assert [item.fault for item in rejected(again)] == [Fault.NOT_UTF8, Fault.NOT_UTF8]
    assert [item.number for item in rejected(items)] == [2, 4]


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("csv", b"query\nbad \xff byte\n", Fault.NOT_UTF8),
        ("csv", b"query,at\ntoo,many,fields\n", Fault.UNREADABLE),
        ("csv", b'query,at\n"never closed,\n', Fault.UNREADABLE),
        ("csv", b'query,at\n"rice"pudding,\n', Fault.UNREADABLE),
        ("csv", b"query,at\nrice,yesterday\n", Fault.NO_TIME),
        ("csv", b"query,at\nrice,99999999999999999\n", Fault.NO_TIME),
        ("ubi", b"{\n", Fault.UNREADABLE),
        ("ubi", b"[1]\n", Fault.UNREADABLE),
        ("ubi", b'{"user_query": 3}\n', Fault.UNREADABLE),
        ("ubi", b'{"action_name": "click"}\n', Fault.NO_QUERY),
        ("ubi", b'{"user_query": "rice", "timestamp": {}}\n', Fault.NO_TIME),
        ("ubi", b'{"user_query": "\xff"}\n', Fault.NOT_UTF8),
        ("ubi", b"[" * 100_000 + b"\n", Fault.UNREADABLE),
        ("aol", b"1\trice\n", Fault.UNREADABLE),
        ("aol", b"1\trice\tnoon\t\t\n", Fault.NO_TIME),
        ("aol", b"1\t\xff\t2026-01-05\t\t\n", Fault.NOT_UTF8),
    ],
)
def test_a_bad_row_is_set_aside_with_its_bytes(name: str, content: bytes, fault: Fault) -> None:
    bad = rejected(read(name, content))

    assert [item.fault for item in bad] == [fault]
    assert content.endswith(bad[0].raw)


def test_a_line_break_within_quotes_belongs_to_the_query_and_an_empty_line_is_no_row() -> None:
    items = read("csv", b'\xef\xbb\xbfquery;session_id\r\n"rice\r\n\r\npudding";s1\r\n\r\nbeans;s2\r\n')

    assert [row[:3] for row in rows(items)] == [("rice\r\n\r\npudding", None, "s1"), ("beans", None, "s2")]
    assert rejected(items) == []


def test_columns_may_have_other_names() -> None:
    columns = parse_columns("query=q, at=when")

    assert rows(read("csv", b"q\twhen\nrice\t2026-01-05T10:00:00Z\n", columns=columns)) == [("rice", None, None, START)]


@pytest.mark.parametrize("text", ["q", "query=", "=q", "queries=q", "query=q,at"])
def test_columns_that_say_nothing_are_a_sentence(text: str) -> None:
    with pytest.raises(ConfigurationError, match="Write it such as"):
        parse_columns(text)


@pytest.mark.parametrize(
    ("name", "content", "columns"),
    [
        ("csv", b"text,at\nrice,\n", {}),
        ("csv", b"query,query\nrice,\n", {}),
        ("csv", b"query,at\nrice,\n", {"session_id": "visit"}),
        ("csv", b"\xff\xfeq\x00", {}),
        ("parquet", parquet(text=["rice"]), {}),
        ("parquet", parquet(query=[["rice"]]), {}),
        ("parquet", PARQUET[:-9], {}),
        ("parquet", b"query,at\n", {}),
        ("trec-session", b"query,at\n", {}),
    ],
)
def test_a_file_of_another_kind_is_a_sentence(name: str, content: bytes, columns: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError):
        read(name, content, columns=columns)


@pytest.mark.parametrize("name", sorted(LOGS))
def test_an_empty_file_has_no_rows(name: str) -> None:
    assert read(name, b"") == []


@pytest.mark.parametrize("name", LINE_FORMATS)
def test_a_line_that_is_too_long_is_set_aside_in_pieces_and_the_next_one_is_read(name: str) -> None:
    head, good = {
        "csv": (b"query\n", b"rice\n"),
        "ubi": (b"", b'{"user_query": "rice"}\n'),
        "aol": (b"", b"1\trice\t\n"),
    }[name]
    long = b"x" * (2 * LONGEST_LINE + 5) + b"\n"

    items = read(name, head + long + good)

    assert b"".join(item.raw for item in rejected(items)) == long
    assert [(item.number, item.query) for item in items if isinstance(item, RawRow)] == [(3 if head else 2, "rice")]


@settings(max_examples=200, deadline=None)
@given(name=st.sampled_from(LINE_FORMATS), content=st.binary(max_size=300))
@example(name="csv", content=b'"')
@example(name="aol", content=b"\t\t\n\t\t\n")
def test_any_bytes_come_out_again_as_rows(name: str, content: bytes) -> None:
    head = b"query,at\n" if name == "csv" else b""

    items = read(name, head + content)

    kept = b"".join(item.raw for item in items if isinstance(item, RawRow | Rejected | Head))
    repeats = sum(isinstance(item, Repeat) for item in items)
    if not repeats:  # what is joined to the search before it has no bytes of its own, and blank lines are no rows
        assert kept.translate(None, b"\r\n\t \x0b\x0c") == (head + content).translate(None, b"\r\n\t \x0b\x0c")


@settings(max_examples=200, deadline=None)
@given(
    pieces=st.lists(
        st.sampled_from([TREC[start : start + 60] for start in range(0, len(TREC), 60)]) | st.binary(max_size=9)
    )
)
def test_any_xml_is_read_without_an_error(pieces: list[bytes]) -> None:
    content = b"<sessiontrack>" + b"".join(pieces)

    items = read("trec-session", content, starting_at=START)

    assert all(isinstance(item, RawRow | Rejected | Head) for item in items)
    assert content.count(b"<query>") >= len(rows(items))


@settings(max_examples=100, deadline=None)
@given(values=st.lists(st.tuples(st.binary(max_size=8), st.none() | st.integers(-(2**63), 2**63 - 1)), max_size=9))
@pytest.mark.parametrize("unit", ["ms", "us", "ns"])  # Parquet has no seconds
def test_any_values_of_a_parquet_file_come_out_as_rows(unit: str, values: list[tuple[bytes, int | None]]) -> None:
    queries = pa.array([query for query, _ in values], pa.binary()).view(pa.string())
    content = parquet(query=queries, at=pa.array([at for _, at in values], pa.timestamp(unit)))

    items = [item for item in read("parquet", content) if not isinstance(item, Head)]

    assert [item.number for item in items if isinstance(item, RawRow | Rejected)] == list(range(1, len(values) + 1))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-05T10:00:00Z", START),
        ("2026-01-05 10:00:00 UTC", START),
        ("2026-01-05 12:00:00+02:00", START),
        ("20260105", START.replace(hour=0)),
        ("1767607200", START),
        ("1767607200.0", START),
        ("1767607200000", START),
        ("-1", datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC)),
        ("  ", None),
    ],
)
def test_a_moment_is_iso_8601_or_a_number_since_1970(text: str, expected: datetime | None) -> None:
    assert moment(text) == expected
