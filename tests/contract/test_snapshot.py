"""A window of the log becomes the same bytes again and again, from either database, until the log itself changes."""

import hashlib
import json
import shutil
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from sqlalchemy import delete, update
from sqlalchemy.ext.asyncio import AsyncEngine
from typer.testing import CliRunner, Result

from service.__main__ import snapshot as snapshot_command
from service.contract import database
from service.contract.artifact import seal
from service.contract.errors import ArtifactError, ConfigurationError, DatabaseError
from service.contract.query_text import query_id
from service.contract.snapshot import SETTLED_AFTER, directory_name, open_snapshot, parse_moment, take_snapshot
from service.contract.tables import clicks, impressions, metadata, searches
from service.events.inserter import Inserter, Write
from tests.conftest import TIMEOUTS

SINCE, UNTIL = datetime(2025, 3, 1, tzinfo=UTC), datetime(2025, 3, 4, tzinfo=UTC)
NOON = datetime(2025, 3, 2, 12, tzinfo=UTC)


def search(search_id: str, at: datetime = NOON, query: str = "how to cook rice", **values: Any) -> Write:
    row = {"search_id": search_id, "at": at, "query": query, "match_key": "an older rule", "origin": "typed"}
    return Write(table="searches", row=row | values)


def impression(impression_id: str, at: datetime = NOON, **values: Any) -> Write:
    names = [column.name for column in impressions.columns if not column.nullable and column.default is None]
    row: dict[str, Any] = dict.fromkeys(names, "x") | {"impression_id": impression_id, "at": at}
    row |= {"prompt_tokens": 3, "n_shown": 2, "context": {}, "sampling": {}, "candidates": [], "texts": {}}
    return Write(table="impressions", row={**row, "timings": {}, **values})


def click(impression_id: str, position: int, at: datetime = NOON, **values: Any) -> Write:
    row = {"impression_id": impression_id, "position": position, "kind": "click", "at": at, "task": "suggest"}
    return Write(table="clicks", row=row | values)


def write(engine: AsyncEngine, *writes: Write) -> None:
    inserter = Inserter(engine)
    inserter.open()
    inserter.insert([inserter.encode(each) for each in writes])
    inserter.close()


def bytes_of(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def hidden(directory: Path) -> list[Path]:
    return list(directory.glob(".*"))


@pytest.fixture
async def both(postgresql_url: str, migrated_sqlite: Path, tmp_path: Path) -> AsyncIterator[list[AsyncEngine]]:
    """An empty database of each kind; the second one sorts names as a dictionary of English does."""
    lite = f"sqlite+aiosqlite:///{shutil.copy(migrated_sqlite, tmp_path)}"
    engines = [database.create(url, TIMEOUTS) for url in (lite, postgresql_url)]
    async with engines[1].begin() as connection:
        for table in metadata.sorted_tables:
            await connection.execute(delete(table))
        await connection.exec_driver_sql('ALTER TABLE searches ALTER search_id TYPE text COLLATE "en-x-icu"')
    yield engines
    async with engines[1].begin() as connection:
        await connection.exec_driver_sql('ALTER TABLE searches ALTER search_id TYPE text COLLATE "default"')
    for engine in engines:
        await engine.dispose()


def hard_rows() -> Iterator[Write]:
    """Rows whose order or form two databases could see differently."""
    for number, name in enumerate(["b", "A", "a", "Z", "é", "z", "_", "-", "10", "9", "Ω", "😀"]):
        yield search(name, NOON, f"query {number} “é” 😀")
    numbers = {"z": 1.0, "a": [1e16, 1.5e22, 1e-7, -0.0, 0.1, 10**18 + 1, 2.5], "é": {"b": None, "a": True}}
    yield impression("i2", NOON + timedelta(microseconds=1), context=numbers, candidates=[{"text": 'a "b"\n'}])
    yield impression("i1", NOON, context={"b": 1, "a": {"d": 2, "c": 3}}, user_id="Zoë", timings={"total": 1e-05})
    yield click("i1", 2, client_at=datetime(1999, 1, 1, 1, tzinfo=UTC))
    yield click("i1", 1)
    yield click("i1", 1, kind="seen")


async def test_both_databases_give_the_same_bytes(both: list[AsyncEngine], tmp_path: Path) -> None:
    rows = list(hard_rows())
    for engine, ordered in zip(both, (rows, rows[::-1]), strict=True):
        write(engine, *ordered)

    taken = [await take_snapshot(engine, SINCE, UNTIL, tmp_path / engine.dialect.name) for engine in both]

    lite, postgres = (bytes_of(snapshot.directory) for snapshot, _ in taken)
    assert lite == postgres
    assert set(lite) == {
        "manifest.json", "columns.json", "searches/2025-03-02.parquet", "impressions/2025-03-02.parquet",
        "clicks/2025-03-02.parquet",
    }  # fmt: skip


async def test_rows_that_are_fetched_in_many_parts_are_the_same_bytes_too(
    both: list[AsyncEngine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.contract.log_files._FETCHED_ROWS", 7)
    monkeypatch.setattr("service.contract.log_files._GROUP_ROWS", 20)
    rows = [search(f"{number:03}", NOON + timedelta(seconds=number // 3)) for number in range(100)]
    for engine in both:
        write(engine, *rows)

    taken = [(await take_snapshot(engine, SINCE, UNTIL, tmp_path / engine.dialect.name))[0] for engine in both]

    files = [snapshot.files("searches")[NOON.date()] for snapshot in taken]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert pq.ParquetFile(files[0]).num_row_groups > 3
    assert pq.read_table(files[0])["search_id"].to_pylist() == [f"{number:03}" for number in range(100)]


async def test_a_snapshot_holds_the_rows_of_its_window_and_tenant_by_utc_day(
    engine: AsyncEngine, tmp_path: Path
) -> None:
    instant = timedelta(microseconds=1)
    write(engine, search("first", SINCE), search("before", SINCE - instant), search("after", UNTIL))
    write(engine, search("last", UNTIL - instant), search("theirs", NOON, tenant="acme"), search("noon", NOON))

    snapshot, _ = await take_snapshot(engine, SINCE, UNTIL, tmp_path / "own")
    theirs, _ = await take_snapshot(engine, SINCE, UNTIL, tmp_path / "theirs", tenant="acme")

    found = {day: pq.read_table(path)["search_id"].to_pylist() for day, path in snapshot.files("searches").items()}
    assert found == {date(2025, 3, 1): ["first"], date(2025, 3, 2): ["noon"], date(2025, 3, 3): ["last"]}
    assert (snapshot.rows("searches"), snapshot.rows("clicks"), snapshot.files("clicks")) == (3, 0, {})
    assert pq.read_table(theirs.files("searches")[NOON.date()])["search_id"].to_pylist() == ["theirs"]


async def test_the_file_of_a_whole_day_does_not_depend_on_the_window_around_it(
    engine: AsyncEngine, tmp_path: Path
) -> None:
    write(engine, *(search(f"{hour:02}", SINCE + timedelta(hours=hour)) for hour in range(72)))
    middle = NOON.replace(hour=0)

    wide, _ = await take_snapshot(engine, SINCE, UNTIL, tmp_path / "wide")
    narrow, _ = await take_snapshot(engine, middle, middle + timedelta(days=1), tmp_path / "narrow")

    path, same = wide.files("searches")[NOON.date()], narrow.files("searches")[NOON.date()]
    assert path.read_bytes() == same.read_bytes()
    assert wide.sha256(path) == narrow.sha256(same) == hashlib.sha256(path.read_bytes()).hexdigest()


async def test_a_search_has_the_key_and_the_number_that_the_code_gives_it_today(
    engine: AsyncEngine, tmp_path: Path
) -> None:
    write(engine, search("s", query="How to cook RICE?"))

    snapshot, _ = await take_snapshot(engine, SINCE, UNTIL, tmp_path / "s")

    (row,) = pq.read_table(snapshot.files("searches")[NOON.date()]).to_pylist()
    assert (row["query"], row["match_key"]) == ("How to cook RICE?", "how to cook rice")
    assert row["query_id"] == query_id("how to cook rice")
    assert row["at"] == NOON
    assert set(row) == {column.name for column in searches.columns} - {"tenant"} | {"query_id"}


async def test_json_is_a_string_written_in_one_way(engine: AsyncEngine, tmp_path: Path) -> None:
    write(engine, impression("i", context={"session": ["é"], "history": [], "n": 1e16, "p": -0.0}))

    snapshot, _ = await take_snapshot(engine, SINCE, UNTIL, tmp_path / "s")

    (row,) = pq.read_table(snapshot.files("impressions")[NOON.date()]).to_pylist()
    assert row["context"] == '{"history":[],"n":10000000000000000,"p":0.0,"session":["é"]}'


async def test_taking_a_snapshot_twice_leaves_the_first_in_place(engine: AsyncEngine, tmp_path: Path) -> None:
    write(engine, *hard_rows())
    first, was_new = await take_snapshot(engine, SINCE, UNTIL, tmp_path / "s")
    before = first.directory.stat().st_ino

    again, is_new = await take_snapshot(engine, SINCE, UNTIL, tmp_path / "s")

    assert (was_new, is_new) == (True, False)
    assert again == first
    assert again.directory.stat().st_ino == before
    assert hidden(tmp_path) == []


async def test_after_an_erasure_a_snapshot_is_refused_until_it_may_be_replaced(
    engine: AsyncEngine, tmp_path: Path
) -> None:
    write(engine, search("s1", user_id="u"), search("s2"))
    first, _ = await take_snapshot(engine, SINCE, UNTIL, tmp_path / "s")
    async with engine.begin() as connection:
        await connection.execute(update(searches).where(searches.c.user_id == "u").values(user_id=None))

    with pytest.raises(ConfigurationError, match="--replace"):
        await take_snapshot(engine, SINCE, UNTIL, tmp_path / "s")
    assert open_snapshot(tmp_path / "s") == first
    second, is_new = await take_snapshot(engine, SINCE, UNTIL, tmp_path / "s", replace=True)

    assert is_new
    assert pq.read_table(second.files("searches")[NOON.date()])["user_id"].to_pylist() == [None, None]
    assert hidden(tmp_path) == []


async def test_what_is_no_snapshot_is_never_replaced(engine: AsyncEngine, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.txt").write_text("years of work")
    shutil.copytree(tmp_path / "thesis", tmp_path / "model")
    seal(tmp_path / "model", {"kind": "policy"})

    for name in ("thesis", "model"):
        with pytest.raises(ArtifactError):
            await take_snapshot(engine, SINCE, UNTIL, tmp_path / name, replace=True)

    assert (tmp_path / "thesis" / "chapter1.txt").exists()
    assert (tmp_path / "model" / "chapter1.txt").exists()


async def test_an_empty_window_is_a_snapshot_of_no_rows(engine: AsyncEngine, tmp_path: Path) -> None:
    taken, is_new = await take_snapshot(engine, SINCE, UNTIL, tmp_path / "s")

    assert is_new
    assert open_snapshot(tmp_path / "s") == taken
    assert {name: (taken.rows(name), taken.files(name)) for name in ("searches", "impressions", "clicks")} == {
        "searches": (0, {}),
        "impressions": (0, {}),
        "clicks": (0, {}),
    }
    assert json.loads((tmp_path / "s" / "columns.json").read_text())["searches"]["query_id"] == "int64"


async def test_a_manifest_has_no_time_of_writing_and_no_path(engine: AsyncEngine, tmp_path: Path) -> None:
    write(engine, *hard_rows())

    taken, _ = await take_snapshot(engine, SINCE, UNTIL, tmp_path / "s")

    assert set(taken.manifest) == {
        "kind", "from", "to", "tenant", "schema_revision", "versions", "counts", "files"
    }  # fmt: skip
    assert taken.manifest["counts"] == {
        "searches": {"2025-03-02": 12}, "impressions": {"2025-03-02": 2}, "clicks": {"2025-03-02": 3}
    }  # fmt: skip
    assert str(tmp_path) not in (tmp_path / "s" / "manifest.json").read_text()


@pytest.mark.parametrize("length", [timedelta(0), timedelta(days=-1)])
async def test_a_window_without_a_moment_is_refused(engine: AsyncEngine, tmp_path: Path, length: timedelta) -> None:
    with pytest.raises(ConfigurationError, match="no moment"):
        await take_snapshot(engine, SINCE, SINCE + length, tmp_path / "s")


@pytest.mark.parametrize("age", [timedelta(0), SETTLED_AFTER - timedelta(seconds=5), timedelta(days=-3)])
async def test_a_window_that_rows_may_still_arrive_in_is_refused(
    engine: AsyncEngine, tmp_path: Path, age: timedelta
) -> None:
    with pytest.raises(ConfigurationError, match="still be on their way"):
        await take_snapshot(engine, SINCE, datetime.now(UTC) - age, tmp_path / "s")

    assert not (tmp_path / "s").exists()


async def test_rows_that_are_erased_while_a_snapshot_is_taken_are_in_it_whole(
    engine: AsyncEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.contract.log_files._FETCHED_ROWS", 1)
    write(engine, *(search(str(day), SINCE + timedelta(days=day)) for day in range(3)), click("0", 1))
    from service.contract import log_files

    whole = log_files._write_day

    async def write_while_others_erase(connection: Any, table: Any, *rest: Any) -> int:
        written = await whole(connection, table, *rest)
        async with engine.begin() as other:
            await other.execute(delete(searches))
            await other.execute(delete(clicks))
        return written

    monkeypatch.setattr(log_files, "_write_day", write_while_others_erase)

    taken, _ = await take_snapshot(engine, SINCE, UNTIL, tmp_path / "s")

    assert (taken.rows("searches"), taken.rows("clicks")) == (3, 1)


async def test_an_altered_file_is_refused(engine: AsyncEngine, tmp_path: Path) -> None:
    write(engine, search("s"))
    taken, _ = await take_snapshot(engine, SINCE, UNTIL, tmp_path / "s")
    taken.files("searches")[NOON.date()].write_bytes(b"PAR1")

    with pytest.raises(ArtifactError, match="SHA-256"):
        open_snapshot(tmp_path / "s")


async def test_a_place_that_cannot_be_written_is_a_sentence(engine: AsyncEngine, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(ConfigurationError, match="cannot be written"):
        await take_snapshot(engine, SINCE, UNTIL, tmp_path / "file" / "s")


async def test_a_database_that_is_away_is_a_database_error(tmp_path: Path) -> None:
    engine = database.create("postgresql+psycopg://nobody@127.0.0.1:1/none", TIMEOUTS)

    with pytest.raises(DatabaseError):
        await take_snapshot(engine, SINCE, UNTIL, tmp_path / "s")


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2025-03-01", SINCE),
        ("2025-03-01T01:00:00+01:00", SINCE),
        ("2025-03-01T00:00:00Z", SINCE),
        ("2025-03-02 12:00", NOON),
    ],
)
def test_a_moment_is_a_date_or_an_iso_time(text: str, moment: datetime) -> None:
    assert parse_moment(text) == moment


@pytest.mark.parametrize("text", ["", "yesterday", "2025-13-01", "01.03.2025", "0001-01-01T00:00+23:59"])
def test_what_is_no_moment_is_a_sentence(text: str) -> None:
    with pytest.raises(ConfigurationError, match="Write a date"):
        parse_moment(text)


def test_a_snapshot_has_a_short_name() -> None:
    assert directory_name(SINCE, UNTIL) == "2025-03-01--2025-03-04"
    assert directory_name(SINCE, NOON, "a/b") == "2025-03-01--2025-03-02T120000--a%2Fb"


def ask(data_dir: Path, url: str, *words: str) -> Result:
    environment = {"NEXTQUERY_DATA_DIR": str(data_dir), "NEXTQUERY_DATABASE_URL": url}
    return CliRunner().invoke(snapshot_command, words, env=environment)


@pytest.fixture
def day(database_url: str) -> str:
    """The URL of a database with two searches of one day."""
    engine = database.create(database_url, TIMEOUTS)
    write(engine, search("s1"), search("s2", user_id="u"))
    return database_url


def test_the_command_says_what_it_froze_and_where(day: str, tmp_path: Path) -> None:
    window = ["--from", "2025-03-01", "--to", "2025-03-04"]

    first = ask(tmp_path, day, *window)
    again = ask(tmp_path, day, *window, "--json")

    assert (first.exit_code, again.exit_code) == (0, 0)
    place = tmp_path / "snapshots" / "2025-03-01--2025-03-04"
    assert "searches" in first.output
    assert f"It is in {place}." in first.output
    said = json.loads(again.output)
    assert (said["directory"], said["new"], said["counts"]["searches"]) == (str(place), False, {"2025-03-02": 2})


def test_the_command_refuses_what_it_cannot_freeze(day: str, tmp_path: Path) -> None:
    future = ask(tmp_path, day, "--from", "2025-03-01", "--to", "2999-01-01")
    nonsense = ask(tmp_path, day, "--from", "monday", "--to", "2025-03-04")

    assert isinstance(future.exception, ConfigurationError)
    assert isinstance(nonsense.exception, ConfigurationError)
    assert not (tmp_path / "snapshots").exists()


def test_the_command_takes_a_tenant_and_a_place_of_its_own(day: str, tmp_path: Path) -> None:
    result = ask(
        tmp_path, day, "--from", "2025-03-01", "--to", "2025-03-04", "--tenant", "a", "--output", str(tmp_path / "x")
    )

    assert result.exit_code == 0
    taken = open_snapshot(tmp_path / "x")
    assert (taken.tenant, taken.rows("searches")) == ("a", 0)
