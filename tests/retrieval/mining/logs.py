"""Small logs for the tests of mining: rows, snapshots of them, and random ones.

It knows nothing about mining itself.
"""

import random
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from service.contract.artifact import seal
from service.contract.query_text import match_key, query_id
from service.contract.snapshot import Snapshot, open_snapshot

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
WORDS = ["rice", "Rice", "rice?", "pasta", "PASTA", "bread", "soup", "cake", "tea", "Tea!"]
SCHEMA = pa.schema(
    [("search_id", pa.string()), ("at", pa.timestamp("us", tz="UTC")), ("user_id", pa.string())]
    + [(name, pa.string()) for name in ("session_id", "query", "match_key", "locale", "origin", "impression_id")]
    + [("query_id", pa.int64())]
)


@dataclass(frozen=True)
class Search:
    """One row of the log; `minute` counts from noon of 20 November 2026."""

    minute: float
    query: str
    user_id: str | None = "ann"
    session_id: str | None = None
    search_id: str = "0"
    origin: str = "typed"

    @property
    def at(self) -> datetime:
        return NOON + timedelta(minutes=self.minute)

    @property
    def query_id(self) -> int:
        return id_of(self.query)


def id_of(query: str) -> int:
    """The number of a query."""
    return query_id(match_key(query))


def walk(*queries: str, people: Iterable[str], minute: float = 0) -> list[Search]:
    """Everyone types `queries`, one a minute."""
    return [Search(minute + step, query, person) for person in people for step, query in enumerate(queries)]


def snapshot(directory: Path, rows: Iterable[Search]) -> Snapshot:
    """A snapshot of `rows`, in the place of an earlier one."""
    shutil.rmtree(directory, ignore_errors=True)
    days = groupby(sorted(rows, key=lambda row: (row.at, row.search_id)), key=lambda row: row.at.date())
    return sealed(directory, {day: write_day(directory, day, list(of_day)) for day, of_day in days})


def write_day(directory: Path, day: date, rows: list[Search]) -> int:
    """Write the file of one day, rows in their order; returns how many."""
    path = directory / "searches" / f"{day.isoformat()}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    values = [
        {**asdict(row), "at": row.at, "match_key": match_key(row.query), "query_id": row.query_id} for row in rows
    ]
    pq.write_table(pa.Table.from_pylist(values, SCHEMA), path)
    return len(rows)


def sealed(directory: Path, counts: dict[date, int]) -> Snapshot:
    """The snapshot of the files in `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "columns.json").write_text("{}\n")
    window = {"from": "2026-11-20T00:00:00+00:00", "to": "2026-12-20T00:00:00+00:00"}
    searches = {day.isoformat(): rows for day, rows in counts.items()}
    seal(directory, {"kind": "snapshot", **window, "tenant": "default", "counts": {"searches": searches}})
    return open_snapshot(directory)


def random_log(seed: int, size: int = 300, people: int | None = None) -> list[Search]:
    """Few people and few queries over three days around midnights, so that everything happens: ties, gaps, caps, bots."""
    dice = random.Random(seed)
    minutes = [dice.choice([0, 12 * 60 - 20, 36 * 60 - 20]) + dice.randrange(0, 90, 5) for _ in range(size)]
    users = [None, *(f"user {number}" for number in range(people or dice.choice([3, 8, 20])))]
    sessions = [None, "a", "b"]
    origins = ["typed", "typed", "import", "clicked"]
    return [
        Search(
            minute + dice.choice([0, 0, 0, 1e-6]),
            dice.choice(WORDS),
            dice.choice(users),
            dice.choice(sessions),
            f"{number:08d}",
            dice.choice(origins),
        )
        for number, minute in enumerate(dice.sample(minutes, len(minutes)))
    ]
