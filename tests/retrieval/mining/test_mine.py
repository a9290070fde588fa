"""From a log of searches to triples that may be shown: every rule by hand, and all of them against the slow miner."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from retrieval.mining.duckdb_engine import DuckDBEngine
from retrieval.mining.mine import mine
from retrieval.mining.report import MiningReport
from retrieval.mining.rules import MiningRules
from service.contract.errors import ArtifactError, ConfigurationError
from tests.retrieval.mining.logs import NOON, Search, id_of, random_log, sealed, snapshot, walk, write_day
from tests.retrieval.mining.slow_miner import mine_slowly

FIVE = ["ann", "bob", "cleo", "dan", "eve"]


class Miner:
    """Mines a list of rows in a directory of the test, and reads what came out."""

    def __init__(self, engine: DuckDBEngine, directory: Path) -> None:
        self.engine, self.directory, self.output = engine, directory, directory / "triples"

    def mine(self, rows: list[Search], **rules: int) -> MiningReport:
        return mine(snapshot(self.directory / "log", rows), self.output, MiningRules(**rules), engine=self.engine)

    def table(self, name: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = pq.read_table(self.output / f"{name}.parquet").to_pylist()
        return rows

    def counts(self) -> dict[tuple[str, str], int]:
        texts = {row["query_id"]: row["text"] for row in self.table("queries")}
        return {(texts[t["query_id"]], texts[t["next_id"]]): t["count"] for t in self.table("triples")}


@pytest.fixture
def miner(duckdb_engine: DuckDBEngine, tmp_path: Path) -> Miner:
    return Miner(duckdb_engine, tmp_path)


@pytest.mark.parametrize("seed", range(12))
def test_random_logs_give_what_the_slow_miner_gives(miner: Miner, seed: int) -> None:
    log = random_log(seed)
    rules = {"k": 1 + seed % 3, "per_person_cap": 1 + seed % 4, "bot_queries_per_day": 20 if seed % 2 else 1000}

    miner.mine(log, **rules)

    triples, queries = mine_slowly(log, MiningRules(**rules))
    assert miner.table("triples") == triples
    assert miner.table("queries") == queries


def test_random_logs_have_everything_that_is_hard() -> None:
    logs = [random_log(seed) for seed in range(20)]

    rows = [row for log in logs for row in log]
    ties = [len({(r.at, r.user_id, r.session_id) for r in log}) < len(log) for log in logs]
    found = [mine_slowly(log, MiningRules(k=3, bot_queries_per_day=20)) for log in logs]
    assert all(ties)
    assert sum(len(triples) for triples, _ in found) > 200
    assert any(row.user_id is None and row.session_id is None for row in rows)
    assert {row.at.date() for row in rows} == {date(2026, 11, 20), date(2026, 11, 21), date(2026, 11, 22)}


def test_a_triple_counts_how_often_people_went_from_one_query_to_the_next(miner: Miner) -> None:
    rows = walk("rice", "pasta", people=FIVE) + walk("rice", "bread", people=FIVE[:2], minute=500)

    miner.mine(rows, k=2)

    # Five went from rice to pasta and two to bread, so seven went on from rice; nobody came to either from elsewhere.
    found = {row["next_id"]: row for row in miner.table("triples")}
    pasta = {"count": 5, "people": 5, "total": 7, "popularity": 5, "last_day": date(2026, 11, 20)}
    bread = {"count": 2, "people": 2, "total": 7, "popularity": 2, "last_day": date(2026, 11, 20)}
    assert found[id_of("pasta")] == {"query_id": id_of("rice"), "next_id": id_of("pasta"), **pasta}
    assert found[id_of("bread")] == {"query_id": id_of("rice"), "next_id": id_of("bread"), **bread}


def test_thirty_minutes_of_silence_are_one_session_and_a_microsecond_more_are_two(miner: Miner) -> None:
    soon = [Search(minute, query) for minute, query in [(0, "rice"), (30, "pasta")]]
    late = [Search(minute, query) for minute, query in [(600, "rice"), (630 + 1 / 6e7, "bread")]]

    report = miner.mine(soon + late, k=1)

    assert miner.counts() == {("rice", "pasta"): 1}
    assert report.sessions == 3


def test_a_session_goes_on_over_midnight_and_belongs_to_the_new_day(miner: Miner) -> None:
    rows = [Search(12 * 60 - 1, "rice"), Search(12 * 60 + 1, "pasta")]

    report = miner.mine(rows, k=1)

    assert [row["last_day"] for row in miner.table("triples")] == [date(2026, 11, 21)]
    assert (report.days, report.sessions, report.rows_read) == (2, 1, 2)


def test_rows_of_one_moment_follow_their_ids(miner: Miner) -> None:
    rows = [Search(0, query, search_id=name) for query, name in [("bread", "c"), ("rice", "a"), ("pasta", "b")]]

    miner.mine(rows, k=1)

    assert miner.counts() == {("rice", "pasta"): 1, ("pasta", "bread"): 1}


def test_sessions_of_one_person_do_not_mix(miner: Miner) -> None:
    names = ["morning", "evening", "morning", "evening"]
    rows = [
        Search(n, q, "ann", s) for n, (q, s) in enumerate(zip(["rice", "tea", "pasta", "cake"], names, strict=True))
    ]

    miner.mine(rows, k=1)

    assert miner.counts() == {("rice", "pasta"): 1, ("tea", "cake"): 1}


def test_a_query_typed_again_is_dropped_and_the_silence_begins_anew(miner: Miner) -> None:
    report = miner.mine([Search(0, "rice"), Search(25, "Rice?"), Search(50, "pasta")], k=1)

    assert miner.counts() == {("Rice?", "pasta"): 1}  # of two forms typed once, the one that sorts first
    assert report.repeats == 1
    assert "Repeats of the query before, dropped: 1." in report.lines()


def test_a_text_that_four_people_typed_is_never_shown_to_others(miner: Miner) -> None:
    rows = walk("rice", "my name is ann", "pasta", people=FIVE[:4]) + walk("pasta", people=["eve"])

    report = miner.mine(rows)

    (triple,) = miner.table("triples")
    assert (triple["query_id"], triple["next_id"]) == (id_of("my name is ann"), id_of("pasta"))
    shareable = {row["text"]: row["shareable"] for row in miner.table("queries")}
    assert shareable == {"my name is ann": False, "pasta": True}
    assert (report.pairs, report.triples, report.triples_below_k, report.shareable_queries) == (2, 1, 1, 1)


def test_unknown_users_are_mined_but_count_as_nobody(miner: Miner) -> None:
    unknown = [Search(n, q, None, f"session {s}") for s in range(9) for n, q in enumerate(["rice", "pasta"])]
    known = walk("rice", "pasta", people=FIVE)

    alone = miner.mine(unknown, k=1)
    both = miner.mine(unknown + known)

    assert (alone.pairs, alone.triples, alone.rows_without_user) == (1, 0, 18)
    (triple,) = miner.table("triples")
    assert (triple["count"], triple["people"]) == (14, 5)
    assert both.triples == 1


def test_a_row_with_neither_user_nor_session_is_counted_and_left_out(miner: Miner) -> None:
    rows = walk("rice", "pasta", people=FIVE) + [Search(n, q, None) for n, q in enumerate(["rice", "pasta"])]

    report = miner.mine(rows)

    assert miner.counts() == {("rice", "pasta"): 5}
    assert report.rows_without_user_and_session == 2
    assert "Not mined because they have neither user nor session: 2." in report.lines()


def test_what_was_clicked_is_not_mined(miner: Miner) -> None:
    rows = walk("rice", "pasta", people=FIVE) + [Search(2, "bread", person, origin="clicked") for person in FIVE]

    report = miner.mine(rows)

    assert miner.counts() == {("rice", "pasta"): 5}
    assert report.rows_of_other_origin == 5


def test_one_person_counts_three_times_in_the_whole_window(miner: Miner) -> None:
    day = 24 * 60
    rows = [row for n in range(9) for row in walk("rice", "pasta", people=["ann"], minute=n * day / 3)]

    miner.mine(rows, k=1)

    assert miner.counts() == {("rice", "pasta"): 3}
    assert [row["count"] for row in miner.table("queries")] == [3, 3]


def test_whoever_types_more_than_a_person_can_is_dropped_on_all_days(miner: Miner) -> None:
    bot = [Search(n / 100, "rice" if n % 2 else "SPAM", "bot") for n in range(1001)]
    other_day = walk("rice", "SPAM", people=["bot"], minute=24 * 60)

    report = miner.mine(bot + other_day + walk("rice", "pasta", people=FIVE), k=1)

    assert miner.counts() == {("rice", "pasta"): 5}
    assert (report.bots, report.rows_of_bots) == (1, 1003)
    line = "Bots, with more than 1,000 queries on one day: 1; dropped with their 1,003 searches."
    assert line in report.lines()


def test_a_thousand_queries_on_each_of_two_days_are_no_bot(miner: Miner) -> None:
    rows = [Search(day + n / 100, f"query {n % 2}") for day in (0, 24 * 60) for n in range(1000)]

    assert miner.mine(rows, k=1).bots == 0


def test_the_form_typed_most_often_is_shown(miner: Miner) -> None:
    rows = walk("rice", "Pasta", people=FIVE[:3]) + walk("rice", "pasta", people=FIVE[3:])

    miner.mine(rows)

    assert miner.counts() == {("rice", "Pasta"): 5}


def test_rows_may_stand_in_any_order(miner: Miner, duckdb_engine: DuckDBEngine) -> None:
    rows = [row for n, person in enumerate(FIVE) for row in walk("rice", "pasta", "bread", people=[person], minute=n)]
    log = sealed(miner.directory / "log", {NOON.date(): write_day(miner.directory / "log", NOON.date(), rows[::-1])})

    mine(log, miner.output, MiningRules(), engine=duckdb_engine)

    assert miner.counts() == {("rice", "pasta"): 5, ("pasta", "bread"): 5}


@pytest.mark.parametrize("at", [datetime(1, 1, 1), datetime(1970, 1, 1), datetime(2262, 5, 1), datetime(9999, 12, 31)])
def test_a_clock_that_jumps_makes_a_strange_day_and_no_triples(miner: Miner, at: datetime) -> None:
    jumped = Search((at.replace(tzinfo=UTC) - NOON) / timedelta(minutes=1), "tea", "ann")

    report = miner.mine([*walk("rice", "pasta", people=FIVE), jumped])

    assert miner.counts() == {("rice", "pasta"): 5}
    assert (report.days, report.rows_read, report.sessions) == (2, 11, 6)


def test_an_empty_log_gives_empty_files_and_says_so(miner: Miner) -> None:
    report = miner.mine([])

    assert (miner.table("triples"), miner.table("queries")) == ([], [])
    assert pq.read_schema(miner.output / "triples.parquet").names[:3] == ["query_id", "next_id", "count"]
    assert "The log is empty: there is nothing to mine." in report.lines()


def test_a_log_of_one_query_gives_no_triples_and_says_so(miner: Miner) -> None:
    report = miner.mine([Search(0, "rice")])

    assert (miner.table("triples"), miner.table("queries")) == ([], [])
    assert "No query was followed by another, so there are no triples." in report.lines()


def test_every_row_is_accounted_for(miner: Miner) -> None:
    report = miner.mine(random_log(1))

    # Every mined row begins a session, repeats the one before, or is the second of a transition.
    mined = report.sessions + report.repeats + report.transitions
    assert report.rows_read == 300 == mined + report.rows_of_other_origin + report.rows_without_user_and_session


def test_the_same_log_gives_the_same_bytes_in_the_place_of_the_old_ones(miner: Miner) -> None:
    miner.mine(random_log(1), k=1)
    first = (miner.output / "manifest.json").read_bytes()

    miner.mine(random_log(1), k=1)

    assert (miner.output / "manifest.json").read_bytes() == first
    assert sorted(path.name for path in miner.directory.iterdir()) == ["log", "triples"]


def test_something_else_is_not_overwritten(miner: Miner) -> None:
    miner.output.mkdir()
    (miner.output / "thesis.txt").write_text("ten years of work")

    with pytest.raises(ConfigurationError, match="holds no triples"):
        miner.mine(walk("rice", "pasta", people=FIVE))

    assert (miner.output / "thesis.txt").read_text() == "ten years of work"


def test_an_empty_directory_is_filled(miner: Miner) -> None:
    miner.output.mkdir()

    miner.mine(walk("rice", "pasta", people=FIVE))

    assert miner.counts() == {("rice", "pasta"): 5}


def test_a_place_that_cannot_be_made_is_a_sentence(miner: Miner) -> None:
    (miner.directory / "file").write_text("")
    miner.output = miner.directory / "file" / "triples"

    with pytest.raises(ConfigurationError, match="cannot be written to"):
        miner.mine(walk("rice", "pasta", people=FIVE))


def test_a_file_that_is_no_parquet_is_named_and_the_old_triples_stay(miner: Miner, duckdb_engine: DuckDBEngine) -> None:
    miner.mine(walk("rice", "pasta", people=FIVE))
    path = miner.directory / "log" / "searches" / "2026-11-20.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    log = sealed(miner.directory / "log", {NOON.date(): 10})

    with pytest.raises(ArtifactError, match=r"2026-11-20\.parquet"):
        mine(log, miner.output, MiningRules(), engine=duckdb_engine)

    assert miner.counts() == {("rice", "pasta"): 5}


@pytest.mark.parametrize("wrong", [{"k": 0}, {"silence_minutes": 0}, {"silence_minutes": 1441}, {"per_person_cap": -1}])
def test_rules_that_make_no_sense_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        MiningRules(**wrong)
