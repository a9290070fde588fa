"""One day of the log becomes its steps, its bots and the forms its queries were typed in.

It knows nothing about other days, but for the end of the one before, nor about the cache.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Protocol

from retrieval.mining.engine import Engine
from retrieval.mining.rules import MiningRules
from retrieval.mining.statements import fingerprint, statement

DAY_COUNTS = (
    "rows_read",
    "rows_of_other_origin",
    "rows_without_user_and_session",
    "rows_without_user",
    "sessions",
    "repeats",
    "transitions",
)
"""What `day_counts.sql` counts; `MiningReport` says what each is."""

_DAY = timedelta(days=1)


class SearchLog(Protocol):
    """What mining reads of a snapshot."""

    def files(self, table: str) -> Mapping[date, Path]:
        """The Parquet file of every UTC day on which `table` has rows."""

    def sha256(self, path: Path) -> str:
        """SHA-256 of one of these files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """A day to mine. `key` changes whenever anything does that its result depends on."""

    date: date
    file: Path
    file_before: Path | None
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MinedDay:
    """What is kept of a day, in `directory`, and what became of its rows."""

    directory: Path
    counts: Mapping[str, int]
    is_from_cache: bool = False


def days_of(log: SearchLog, rules: MiningRules, engine: Engine) -> list[Day]:
    """Every day of the log, oldest first."""
    files = log.files("searches")
    return [_day(day, files, log, rules, engine) for day in sorted(files)]


def mine_day(day: Day, rules: MiningRules, engine: Engine, directory: Path) -> MinedDay:
    """Write the steps, bots and surfaces of `day` into a new `directory`."""
    midnight = datetime.combine(day.date, time(), UTC)
    since = midnight - timedelta(minutes=rules.silence_minutes) if day.file_before else midnight
    engine.read_day(day.file, day.file_before, since)
    directory.mkdir(parents=True)
    _keep("steps", statement("steps", day=day.date, silence_us=rules.silence_us), engine, directory)
    _keep("bots", statement("bots", bot_queries_per_day=rules.bot_queries_per_day), engine, directory)
    _keep("surfaces", statement("surfaces"), engine, directory)
    return MinedDay(directory=directory, counts=engine.row(statement("day_counts")))


def _keep(table: str, sql: str, engine: Engine, directory: Path) -> None:
    path = directory / f"{table}.parquet"
    engine.write(sql, path)
    engine.read(table, [path])


def _day(day: date, files: Mapping[date, Path], log: SearchLog, rules: MiningRules, engine: Engine) -> Day:
    before = files.get(day - _DAY) if day > date.min else None
    depends_on = [
        engine.version,
        fingerprint(),
        rules.silence_us,
        rules.bot_queries_per_day,
        *(log.sha256(file) for file in (files[day], before) if file),
    ]
    digest = hashlib.sha256(repr(depends_on).encode()).hexdigest()
    return Day(date=day, file=files[day], file_before=before, key=f"{day.isoformat()}-{digest[:32]}")
