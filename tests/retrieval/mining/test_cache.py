"""A night mines the new day only, and what was erased from the log is erased from the cache."""

from pathlib import Path

import pytest

from retrieval.mining.duckdb_engine import DuckDBEngine
from retrieval.mining.mine import mine
from retrieval.mining.report import MiningReport
from retrieval.mining.rules import MiningRules
from service.contract.artifact import verify
from tests.retrieval.mining.logs import Search, random_log, snapshot, walk

DAY = 24 * 60
FIVE = ["ann", "bob", "cleo", "dan", "eve"]


class Nights:
    """Mines one log after the other with one cache."""

    def __init__(self, engine: DuckDBEngine, directory: Path) -> None:
        self.engine, self.directory, self.cache = engine, directory, directory / "cache"

    def mine(self, rows: list[Search], *, cached: bool = True, **rules: int) -> MiningReport:
        log = snapshot(self.directory / "log", rows)
        cache = self.cache if cached else None
        return mine(log, self.directory / "triples", MiningRules(**rules), engine=self.engine, cache=cache)

    def triples(self) -> object:
        return verify(self.directory / "triples")

    def days(self) -> list[str]:
        return sorted(entry.name[:10] for entry in self.cache.iterdir())


@pytest.fixture
def nights(duckdb_engine: DuckDBEngine, tmp_path: Path) -> Nights:
    return Nights(duckdb_engine, tmp_path)


def days(number: int) -> list[Search]:
    """`number` days on which the same is typed."""
    return [row for day in range(number) for row in walk("rice", "pasta", people=FIVE, minute=day * DAY)]


def test_the_second_night_mines_the_new_day_only(nights: Nights) -> None:
    first = nights.mine(days(3))
    second = nights.mine(days(4))

    assert (first.days, first.days_from_cache) == (3, 0)
    assert (second.days, second.days_from_cache) == (4, 3)
    assert "Days that were mined before and did not change: 3." in second.lines()
    assert nights.days() == ["2026-11-20", "2026-11-21", "2026-11-22", "2026-11-23"]


@pytest.mark.parametrize("seed", range(3))
def test_with_and_without_cache_the_triples_are_the_same(nights: Nights, seed: int) -> None:
    rows = sorted(random_log(seed), key=lambda row: row.at)
    nights.mine(rows[:150], k=2)

    cached = nights.mine(rows, k=2)
    with_cache = nights.triples()
    nights.mine(rows, k=2, cached=False)

    assert cached.days_from_cache == 1  # the day of row 150 was cut, and the one after it is new
    assert nights.triples() == with_cache


def test_an_erased_person_is_gone_from_triples_and_cache(nights: Nights) -> None:
    secret = walk("rice", "my very own words", people=["mallory"], minute=DAY)
    nights.mine(days(4) + secret)

    report = nights.mine(days(4))

    # The day that changed and the one after it, which reads its last half hour, are mined again.
    assert report.days_from_cache == 2
    assert len(nights.days()) == 4
    assert not [path for path in nights.cache.rglob("*") if path.is_file() and b"my very own" in path.read_bytes()]


def test_days_that_left_the_window_leave_the_cache_and_other_files_stay(nights: Nights) -> None:
    nights.mine(days(3))
    (nights.cache / "notes.txt").write_text("mine")

    nights.mine([row for row in days(3) if row.minute >= DAY])

    assert nights.days() == ["2026-11-21", "2026-11-22", "notes.txt"]


def test_a_damaged_day_is_mined_again(nights: Nights) -> None:
    nights.mine(days(3))
    steps = sorted(nights.cache.glob("2026-11-21*/steps.parquet"))[0]
    steps.write_bytes(steps.read_bytes()[:-1] + b"?")

    report = nights.mine(days(3))

    assert report.days_from_cache == 2
    assert nights.mine(days(3)).days_from_cache == 3


@pytest.mark.parametrize(("rule", "kept"), [({"k": 2}, 3), ({"per_person_cap": 1}, 3), ({"silence_minutes": 5}, 0)])
def test_a_new_rule_mines_again_only_what_depends_on_it(nights: Nights, rule: dict[str, int], kept: int) -> None:
    nights.mine(days(3))

    assert nights.mine(days(3), **rule).days_from_cache == kept
