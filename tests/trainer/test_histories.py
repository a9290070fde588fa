"""Prompts of `predict` from logs of every kind, written by hand: what is history, what is to be predicted, what is left out."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from service.contract.errors import ArtifactError, ConfigurationError
from service.contract.snapshot import composed_snapshot
from service.contract.tables import clicks, impressions, searches
from service.contract.types import EventSource
from trainer.histories import names
from trainer.histories_to_prompts import Event, HistoryConfig, predicted, prompts_from_log, simulated_prompts
from trainer.prompt_files import KnownPrompt, examples_of, read_prompts, write_prompts

DATA = Path(__file__).parents[3] / "shared" / "data"
AOL = """\
AnonID\tQuery\tQueryTime\tItemRank\tClickURL
7\trice cooker\t2006-03-01 07:17:12\t\t
7\tbest "rice" cooker\t2006-03-02 07:17:12\t1\thttp://www.rice.example
7\tbest "rice" cooker\t2006-03-02 07:17:12\t2\thttp://www.pots.example
7\t-\t2006-03-03 07:17:12
7\trice pudding\t2006-03-04 07:17:12
7\trice pudding\t2006-03-04 07:18:12
this line is broken
7\tno time\tnot a time
7\tpudding with milk\t2006-03-05 07:17:12\t1\thttp://milk.example
7\toat milk\t2006-03-06 07:17:12
8\tonly one\t2006-03-06 07:17:12
"""
UBI = [
    {"client_id": "c", "user_query": "laptop", "timestamp": "2026-11-20T10:00:00Z", "query_id": "q1"},
    {
        "client_id": "c",
        "action_name": "click",
        "timestamp": "2026-11-20T11:00:30+01:00",
        "message": "x",
        "event_attributes": {"object": {"object_id": "1", "name": "Thin Laptop 13"}},
    },
    {"client_id": "c", "action_name": "purchase", "timestamp": "2026-11-20T12:00:00Z", "message": "Thin Laptop 13"},
    {"client_id": "c", "action_name": "view_page", "timestamp": "2026-11-20T13:00:00Z", "message": "delivery times"},
    {"client_id": "c", "action_name": "scroll", "timestamp": "2026-11-20T13:00:01Z", "message": "50 %"},
    {"_source": {"client_id": "c", "user_query": "laptop bag", "timestamp": 1795300000000}},
    {"client_id": "c", "user_query": "wireless mouse", "timestamp": "2026-11-22T10:00:00Z"},
    {"client_id": "c", "user_query": "quiet keyboard", "timestamp": "2026-11-23T10:00:00Z"},
]


def _history(row):
    return [(event.source.value, event.text) for event in row.prompt.context.history]


def test_every_kind_is_found_by_its_file():
    assert names() == ["aol", "sessions", "snapshot", "ubi"]
    with pytest.raises(ConfigurationError, match="aol, sessions, snapshot, ubi"):
        prompts_from_log("excel", Path(__file__), HistoryConfig())


def test_the_layout_of_aol_has_searches_and_clicks_and_loses_only_what_nobody_can_read(tmp_path):
    log = tmp_path / "log.tsv"
    log.write_text(AOL)

    [row] = prompts_from_log("aol", log, HistoryConfig())

    assert _history(row) == [
        ("search", "rice cooker"),
        ("search", 'best "rice" cooker'),
        ("click", "http://www.pots.example"),
        ("click", "http://www.rice.example"),
    ]
    assert row.targets == ("rice pudding", "pudding with milk", "oat milk")
    assert row.prompt.context.n == 3


def test_ubi_has_searches_clicks_purchases_and_visits(tmp_path):
    log = tmp_path / "ubi.ndjson"
    log.write_text("".join(json.dumps(each) + "\n" for each in UBI) + "no json\n")

    [row] = prompts_from_log("ubi", log, HistoryConfig())

    assert _history(row) == [
        ("search", "laptop"),
        ("click", "Thin Laptop 13"),
        ("purchase", "Thin Laptop 13"),
        ("visit", "delivery times"),
    ]
    assert row.targets == ("laptop bag", "wireless mouse", "quiet keyboard")
    assert row.prompt.context.history[1].at == datetime(2026, 11, 20, 10, 0, 30, tzinfo=UTC)


def test_a_snapshot_has_what_was_typed_and_the_queries_that_were_clicked(tmp_path):
    day = datetime(2026, 11, 20, tzinfo=UTC)

    def at(hour):
        return day.replace(hour=hour)

    def row(table, **values):
        return {column.name: values.get(column.name) for column in table.columns} | {
            "tenant": "default",
            "arm": "control",
        }

    def search(hour, query, origin="typed"):
        return row(
            searches, search_id=f"s{hour}", at=at(hour), user_id="u", query=query, match_key=query, origin=origin
        )

    empty = {name: {} for name in ("context", "sampling", "texts", "timings")}
    empty |= {"prompt_fingerprint": "f", "prompt_tokens": 1, "served_by": "model"}
    candidates = [{"text": "rice price"}, {"text": "rice brands"}]
    shown = row(
        impressions,
        impression_id="i1",
        at=at(2),
        task="suggest",
        user_id="u",
        candidates=candidates,
        n_shown=2,
        **empty,
    )
    clicked = row(clicks, impression_id="i1", position=2, kind="click", at=at(3), task="suggest")
    with composed_snapshot(tmp_path / "log", day, day.replace(day=21)) as write_day:
        typed = [search(1, "rice"), search(4, "jasmine rice"), search(5, "rice pot"), search(6, "rice steamer")]
        write_day(searches, day.date(), [*typed, search(7, "clicked only", "clicked")])
        write_day(impressions, day.date(), [shown])
        write_day(clicks, day.date(), [clicked])

    [row] = prompts_from_log("snapshot", tmp_path / "log", HistoryConfig())

    assert _history(row) == [("search", "rice"), ("click", "rice brands")]
    assert row.targets == ("jasmine rice", "rice pot", "rice steamer")


def test_sessions_stand_for_people(tmp_path):
    log = tmp_path / "sessions.jsonl"
    sessions = [{"session": "a", "queries": ["one", "two", "three", "four", "five"]}, {"session": "b", "queries": "no"}]
    log.write_text("".join(json.dumps(each) + "\n" for each in sessions))

    [row] = prompts_from_log("sessions", log, HistoryConfig())

    assert _history(row) == [("search", "one"), ("search", "two")]
    assert row.targets == ("three", "four", "five")


def _events(*texts):
    return [Event(datetime(2026, 1, 1 + day, tzinfo=UTC), EventSource.SEARCH, text) for day, text in enumerate(texts)]


def test_what_is_to_be_predicted_was_typed_in_the_time_asked_for():
    events = _events("a", "b", "c", "d", "e", "f")

    until = predicted(events, HistoryConfig(newest=2, until=datetime(2026, 1, 5, tzinfo=UTC)))
    since = predicted(events, HistoryConfig(newest=2, since=datetime(2026, 1, 6, tzinfo=UTC)))

    assert until.targets == ("c", "d")
    assert since is None


def test_only_the_newest_of_a_long_history_is_kept():
    row = predicted(_events(*"abcdefg"), HistoryConfig(newest=1, most_history=2))

    assert _history(row) == [("search", "e"), ("search", "f")]


def test_people_to_learn_from_and_people_to_measure_on_are_others(tmp_path):
    log = tmp_path / "sessions.jsonl"
    log.write_text(
        "".join(json.dumps({"session": f"s{k}", "queries": [f"{k} {n}" for n in range(6)]}) + "\n" for k in range(200))
    )

    learnt, kept = (
        {row.prompt.prompt_id for row in prompts_from_log("sessions", log, HistoryConfig(people=share))}
        for share in ((0.0, 0.8), (0.8, 1.0))
    )

    assert not learnt & kept
    assert len(learnt | kept) == 200
    assert 20 < len(kept) < 60


@pytest.mark.parametrize("wrong", [{"newest": 11}, {"newest": 0}, {"least_history": 0}, {"people": (0.5, 0.5)}])
def test_what_cannot_be_asked_for_is_refused(wrong):
    with pytest.raises(ConfigurationError, match=r"predict|Predict|share"):
        HistoryConfig(**wrong)


def test_a_log_of_another_kind_or_none_is_refused(tmp_path):
    (tmp_path / "log").write_text("nothing\n")

    with pytest.raises(ConfigurationError, match="There is no log"):
        prompts_from_log("aol", tmp_path / "absent", HistoryConfig())
    with pytest.raises(ConfigurationError, match="does not read as a log of kind aol"):
        prompts_from_log("aol", tmp_path / "log", HistoryConfig())
    with pytest.raises(ConfigurationError, match="nobody typed 3 queries"):
        prompts_from_log("ubi", tmp_path / "log", HistoryConfig())


def test_prompts_come_back_from_a_file_as_they_were(tmp_path):
    rows = simulated_prompts(5, newest=10, seed=3)

    write_prompts(rows, tmp_path / "prompts.parquet")

    assert read_prompts(tmp_path / "prompts.parquet") == rows
    assert read_prompts(tmp_path / "prompts.parquet", most=2) == rows[:2]
    assert rows[0].prompt.context.n == 10
    assert rows == simulated_prompts(5, newest=10, seed=3)
    with pytest.raises(ArtifactError, match="exists already"):
        write_prompts(rows, tmp_path / "prompts.parquet")


def test_only_prompts_with_targets_are_examples():
    row = simulated_prompts(1)[0]

    [example] = examples_of([row, KnownPrompt(prompt=row.prompt)])

    assert (example.task, example.context, example.queries) == ("predict", row.prompt.context, row.targets)
    with pytest.raises(ArtifactError, match="nothing to be fine-tuned on"):
        examples_of([KnownPrompt(prompt=row.prompt)])


def test_a_file_that_holds_no_prompts_is_refused(tmp_path):
    (tmp_path / "prompts.parquet").write_bytes(b"PAR1")

    with pytest.raises(ArtifactError, match="nextquery train prompts"):
        read_prompts(tmp_path / "prompts.parquet")


@pytest.mark.skipif(not DATA.is_dir(), reason="the real data is not on this machine")
def test_real_sessions_become_histories():
    rows = prompts_from_log("sessions", DATA / "sessions.jsonl", HistoryConfig())

    assert len(rows) > 3_000
    assert all(len(row.targets) == 3 and len(row.prompt.context.history) >= 2 for row in rows)
    assert len({row.prompt.prompt_id for row in rows}) == len(rows)  # some sessions begin alike
