"""Rows that no database holds become the same snapshot that a database would give."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from service.contract.errors import ArtifactError, ConfigurationError
from service.contract.snapshot import composed_snapshot, open_snapshot, take_snapshot
from service.contract.tables import DEFAULT_TENANT, clicks, impressions, searches
from tests.bench.log_rows import click, impression

SINCE = datetime(2026, 1, 1, tzinfo=UTC)
DAYS = 2


def rows() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    seen = [
        impression(f"{day}-{each}", SINCE + timedelta(days=day, minutes=5 - each), "ü rice 🍚", [f"a {each}", "b"])
        for day in range(DAYS)
        for each in range(3)
    ]
    return seen, [click(row, 1) for row in seen[::2]]


def compose(directory: Path) -> None:
    seen, clicked = rows()
    with composed_snapshot(directory, SINCE, SINCE + timedelta(days=DAYS)) as write_day:
        for table, listed in ((impressions, seen), (clicks, clicked), (searches, [])):
            for day in range(DAYS):
                date = (SINCE + timedelta(days=day)).date()
                write_day(table, date, [row for row in listed if row["at"].date() == date])


async def test_composed_rows_give_the_bytes_that_the_database_gives(engine: AsyncEngine, tmp_path: Path) -> None:
    seen, clicked = rows()
    async with engine.begin() as connection:
        await connection.execute(impressions.insert(), [{**row, "tenant": DEFAULT_TENANT} for row in seen])
        await connection.execute(clicks.insert(), [{**row, "tenant": DEFAULT_TENANT} for row in clicked])
    taken, _ = await take_snapshot(engine, SINCE, SINCE + timedelta(days=DAYS), tmp_path / "taken")

    compose(tmp_path / "composed")

    assert open_snapshot(tmp_path / "composed").manifest["files"] == taken.manifest["files"]
    assert open_snapshot(tmp_path / "composed").manifest["counts"] == taken.manifest["counts"]


def test_a_snapshot_that_is_there_is_never_overwritten(tmp_path: Path) -> None:
    compose(tmp_path / "log")

    with pytest.raises(ArtifactError, match="exists already"):
        compose(tmp_path / "log")


def test_a_snapshot_whose_making_fails_never_appears(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), composed_snapshot(tmp_path / "log", SINCE, SINCE + timedelta(days=1)):
        raise RuntimeError("stopped")

    assert list(tmp_path.iterdir()) == []


def test_an_empty_window_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigurationError, match="There is no moment"),
        composed_snapshot(tmp_path / "log", SINCE, SINCE),
    ):
        pass
