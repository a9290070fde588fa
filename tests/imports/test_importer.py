"""Every row of a log ends as stored, there already, joined, or set aside with its bytes; nothing is lost or doubled."""

import os
import shutil
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Row, select
from sqlalchemy.ext.asyncio import AsyncEngine

from service.contract import database
from service.contract.errors import DatabaseError
from service.contract.tables import searches
from service.events.inserter import Inserter
from service.imports.checks import State
from service.imports.formats import get_format
from service.imports.importer import LONGEST_QUERY, ImportOptions, Report, import_log
from service.imports.rows import ReadOptions
from tests.conftest import TIMEOUTS
from tests.imports.logs import CSV, LOGS, START, parquet

HEAD = b"query,user_id,session_id,at\n"


@pytest.fixture
async def inserter(engine: AsyncEngine) -> AsyncIterator[Inserter]:
    opened = Inserter(engine)
    opened.open()
    yield opened
    opened.close()


def take(
    inserter: Inserter, directory: Path, content: bytes, name: str = "csv", *, store: bool = True, **options: Any
) -> Report:
    path = directory / "log.txt"
    path.write_bytes(content)
    read = ReadOptions(starting_at=options.pop("starting_at", None))
    aside = directory / "imports" if store else None
    return import_log(path, get_format(name), ImportOptions(read=read, **options), inserter, aside)


async def stored(engine: AsyncEngine) -> list[Row[Any]]:
    async with engine.connect() as connection:
        return list((await connection.execute(select(searches).order_by(searches.c.search_id))).all())


def states(report: Report) -> dict[str, State]:
    return {check.name: check.state for check in report.checks if check.state is not State.PASS}


def aside(report: Report) -> tuple[bytes, list[str]]:
    """The rejected rows with what stands before them, and row and fault of each."""
    assert report.rejected is not None
    reasons = Path(f"{report.rejected}.reasons.tsv").read_text().splitlines()
    return report.rejected.read_bytes(), [" ".join(line.split("\t")[:2]) for line in reasons[1:]]


async def test_a_search_is_stored_as_it_was_logged(engine: AsyncEngine, inserter: Inserter, tmp_path: Path) -> None:
    report = take(inserter, tmp_path, HEAD + b"How to  cook RICE?,u1,s1,2026-01-05T11:00:00+01:00\n", locale="de")

    (row,) = await stored(engine)
    assert (row.at, row.user_id, row.session_id, row.query) == (START, "u1", "s1", "How to cook RICE?")
    assert (row.match_key, row.locale, row.origin, row.tenant) == ("how to cook rice", "de", "import", "default")
    assert row.impression_id is None
    assert (report.rows, report.stored, report.set_aside, report.rejected) == (1, 1, 0, None)


@pytest.mark.parametrize("name", sorted(LOGS))
async def test_a_log_of_every_format_is_stored_once_however_often_it_is_imported(
    engine: AsyncEngine, inserter: Inserter, tmp_path: Path, name: str
) -> None:
    first = take(inserter, tmp_path, LOGS[name], name, starting_at=START)
    before = await stored(engine)

    again = take(inserter, tmp_path, LOGS[name], name, starting_at=START)

    assert first.stored == len(before) > 1
    assert (again.stored, again.already_there, again.rows) == (0, first.stored, first.rows)
    assert await stored(engine) == before


async def test_rows_of_one_second_keep_their_order(engine: AsyncEngine, inserter: Inserter, tmp_path: Path) -> None:
    lines = [b"query %d,u,s,2026-01-05T10:00:00Z\n" % number for number in range(300)]

    take(inserter, tmp_path, HEAD + b"".join(lines))

    assert [row.query for row in await stored(engine)] == [f"query {number}" for number in range(300)]


async def test_the_same_log_of_two_tenants_is_stored_twice(
    engine: AsyncEngine, inserter: Inserter, tmp_path: Path
) -> None:
    reports = [take(inserter, tmp_path, CSV, tenant=tenant) for tenant in ("a", "b")]

    assert [report.stored for report in reports] == [4, 4]


async def test_a_session_is_a_person_only_when_that_is_said(
    engine: AsyncEngine, inserter: Inserter, tmp_path: Path
) -> None:
    log = HEAD + b"rice,,s1,2026-01-05\nbeans,u1,s1,2026-01-05\nkyoto,,,2026-01-05\n"
    take(inserter, tmp_path, log)
    unknown = [row.user_id for row in await stored(engine)]

    said = take(inserter, tmp_path, log, tenant="other", sessions_are_people=True)
    later = take(inserter, tmp_path, log, sessions_are_people=True)

    assert unknown == [None, "u1", None]
    assert {row.user_id for row in await stored(engine) if row.tenant == "other"} == {"session:s1", "u1", None}
    assert (said.stored, later.stored, later.already_there) == (3, 0, 3)


async def test_rows_without_a_time_get_one_a_second_apart(
    engine: AsyncEngine, inserter: Inserter, tmp_path: Path
) -> None:
    report = take(inserter, tmp_path, b"query,session_id\nrice,s\nbeans,s\n", starting_at=START)

    moments: list[datetime] = [row.at for row in await stored(engine)]
    assert moments == [START + timedelta(seconds=1), START + timedelta(seconds=2)]
    assert states(report)["times"] is State.WARN


async def test_rows_without_a_time_are_set_aside_when_no_beginning_is_said(
    engine: AsyncEngine, inserter: Inserter, tmp_path: Path
) -> None:
    report = take(inserter, tmp_path, b"query,session_id\nrice,s\n")

    assert (report.stored, report.set_aside, states(report)["times"]) == (0, 1, State.FAIL)
    assert "--starting-at" in next(check.finding for check in report.checks if check.name == "times")
    assert not report.took_something


async def test_rejected_rows_are_kept_byte_by_byte_with_their_reasons_and_can_be_mended(
    engine: AsyncEngine, inserter: Inserter, tmp_path: Path
) -> None:
    bad = [
        b"bad \xff\xfe bytes,u,s,2026-01-05\n",
        b"too,few\n",
        b"???,u,s,2026-01-05\n",
        b"rice,u,s,noon\r\n",
        b"x" * (LONGEST_QUERY + 1) + b",u,s,2026-01-05\n",
        b"nul in the name,u\x00,s,2026-01-05",
    ]
    report = take(inserter, tmp_path, HEAD + b"rice,u,s,2026-01-05\n" + b"".join(bad))
    kept, reasons = aside(report)

    assert kept == HEAD + b"".join(bad)
    assert reasons == [
        "3 not UTF-8",
        "4 unreadable",
        "5 no query",
        "6 no time",
        "7 too long",
        "8 refused by the database",
    ]
    assert (report.rows, report.stored, report.set_aside) == (7, 1, 6)
    assert not report.is_sound
    assert report.took_something
    mended = (
        kept.replace(b"\xff\xfe ", b"").replace(b"noon", b"2026-01-05").replace(b"???", b"what?").replace(b"\x00", b"")
    )
    assert take(inserter, tmp_path, mended).stored == 4


async def test_what_the_database_refuses_is_set_aside(
    engine: AsyncEngine, inserter: Inserter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from service.events import inserter as module

    insert = Inserter._insert_at_once

    def refuse_beans(self: Inserter, table: str, rows: list[module.Row]) -> None:
        if any("beans" in row.text for row in rows):
            raise sqlite3.DataError("no beans")
        insert(self, table, rows)

    monkeypatch.setattr(Inserter, "_insert_at_once", refuse_beans)

    report = take(
        inserter, tmp_path, HEAD + b"rice,u,s,2026-01-05\nbeans,u,s,2026-01-05\nkyoto,u,s,2026-01-05\ntoo,few"
    )

    assert (report.searches, report.stored, report.set_aside) == (2, 2, 2)
    rows = b"too,few\nbeans,u,s,2026-01-05\n"  # a break where the file ended without one
    assert aside(report) == (HEAD + rows, ["5 unreadable", "3 refused by the database"])


async def test_rejected_rows_of_another_log_of_that_name_stay(inserter: Inserter, tmp_path: Path) -> None:
    reports = [take(inserter, tmp_path, HEAD + row) for row in (b"one\n", b"two\n", b"one\n")]

    assert [report.rejected and report.rejected.name for report in reports] == [
        "log.csv.rejected",
        "log.csv-2.rejected",
        "log.csv.rejected",
    ]
    assert len(list((tmp_path / "imports").iterdir())) == 4


async def test_validating_stores_and_writes_nothing(engine: AsyncEngine, inserter: Inserter, tmp_path: Path) -> None:
    report = take(inserter, tmp_path, CSV + b"too,few\n", store=False)

    assert (report.searches, report.set_aside, report.stored, report.rejected) == (4, 1, 0, None)
    assert await stored(engine) == []
    assert set(os.listdir(tmp_path)) - {"log.txt"} <= {f"nextquery.db{end}" for end in ("", "-wal", "-shm")}


async def test_what_was_read_before_a_file_breaks_off_is_stored(
    engine: AsyncEngine, inserter: Inserter, tmp_path: Path
) -> None:
    whole = b'<sessiontrack><session num="1"><interaction starttime="10:00"><query>rice</query></interaction>'
    endless = b"<interaction>" + b"x" * (5 << 20)

    report = take(inserter, tmp_path, whole + endless, "trec-session", starting_at=START)

    assert (report.stored, states(report)["file"], report.took_something) == (1, State.FAIL, True)


async def test_a_log_that_is_longer_than_a_batch_is_stored_whole(
    engine: AsyncEngine, inserter: Inserter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.imports.importer.BATCH_ROWS", 7)

    report = take(inserter, tmp_path, HEAD + b"".join(b"q%d,u,s,2026-01-05\n" % n for n in range(50)))

    assert (report.stored, report.already_there) == (50, 0)
    assert len(await stored(engine)) == 50


async def test_a_database_that_is_away_is_a_database_error_and_leaves_no_file(tmp_path: Path) -> None:
    away = Inserter(database.create("postgresql+psycopg://nobody@127.0.0.1:1/none", TIMEOUTS))

    with pytest.raises(DatabaseError):
        take(away, tmp_path, CSV + b"too,few\n")

    assert list((tmp_path / "imports").iterdir()) == []


@pytest.fixture(scope="module")
def lite(migrated_sqlite: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Inserter, Path]]:
    directory = tmp_path_factory.mktemp("any")
    url = f"sqlite+aiosqlite:///{shutil.copy(migrated_sqlite, directory)}"
    with closing(Inserter(database.create(url, TIMEOUTS))) as inserter:
        inserter.open()
        yield inserter, directory


def count(directory: Path) -> int:
    (path,) = directory.glob("*.db")
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("SELECT count(*) FROM searches").fetchone()[0])


HOSTILE = st.sampled_from([b"\n", b"\t", b",", b'"', b"\xff", b"\x00", b"\\u0000", b"\\ud800", b"rice", b"1767607200"])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(["csv", "ubi", "aol", "trec-session"]),
    pieces=st.lists(st.tuples(st.integers(0, 9), HOSTILE | st.binary(max_size=5)), max_size=12),
)
def test_every_row_of_a_damaged_log_is_counted_once(
    lite: tuple[Inserter, Path], name: str, pieces: list[tuple[int, bytes]]
) -> None:
    inserter, directory = lite
    content = LOGS[name]
    for place, piece in pieces:  # after the head, which makes a file one of its format
        at = min(60 + place * len(content) // 10, len(content))
        content = content[:at] + piece + content[at:]
    before = count(directory)

    report = take(inserter, directory, content, name, starting_at=START)

    assert report.rows == report.searches + report.joined + report.set_aside
    assert report.searches == report.stored + report.already_there
    assert count(directory) - before == report.stored
    if report.set_aside:
        _, reasons = aside(report)
        assert len(reasons) == report.set_aside


async def test_any_texts_are_stored_alike_by_both_databases(postgresql_url: str, lite: tuple[Inserter, Path]) -> None:
    texts = ["ri\u200bce", "naïve café", "😀", "a\u0301", "\u202eevil", "tab\there", "\\u0000", '"quoted"', "'; DROP"]
    content = parquet(query=texts, at=[START] * len(texts), session_id=texts, user_id=texts)
    reports = [take(*lite, content, "parquet", tenant="texts")]
    with closing(Inserter(database.create(postgresql_url, TIMEOUTS))) as postgres:
        postgres.open()
        reports.append(take(postgres, lite[1], content, "parquet", tenant="texts"))

    (lite_path,) = lite[1].glob("*.db")
    found = []
    for url in (f"sqlite+aiosqlite:///{lite_path}", postgresql_url):
        engine = database.create(url, TIMEOUTS)
        found.append([row for row in await stored(engine) if row.tenant == "texts"])
        await engine.dispose()

    assert found[0] == found[1]
    assert [report.stored for report in reports] == [len(found[0])] * 2
    assert len(found[0]) > 6
