"""Prompts are distinct contexts of the log, the same for the same log, and complete."""

import json
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest

from service.contract.errors import ConfigurationError
from service.contract.logged_context import as_logged, from_log
from service.contract.types import EventSource, HistoryEvent, PromptContext
from tests.ctr.small_log import FIRST_DAY, Shown, snapshot_of
from trainer.prompts import prompt_of, prompts_of

AT = datetime(2026, 11, 3, 9, 30, tzinfo=UTC)
FULL = PromptContext(
    n=3,
    query="brown rice",
    session=("rice", "rice cooker"),
    history=(
        HistoryEvent(source=EventSource.PURCHASE, text="pan", at=AT),
        HistoryEvent(source=EventSource.VISIT, text="x"),
    ),
    answer="Rinse it.",
    documents=("Rice has bran.",),
    co_queries=("brown rice calories",),
)


def shown(number: int, query: str | None, *, day: int = 0, n: int = 3, **more) -> Shown:
    queries = tuple(f"{query} {k}" for k in range(n))
    return Shown(f"{number:04d}", day, query, queries, **more)


def day(number: int) -> date:
    return FIRST_DAY + timedelta(days=number)


def test_a_context_comes_back_from_the_log_as_it_was():
    assert from_log(json.loads(json.dumps(as_logged(FULL))), query="brown rice", n=3) == FULL


def test_a_context_is_one_prompt_however_often_it_was_seen(tmp_path):
    twice = [shown(k, "rice", day=k % 2, n=n) for k, n in enumerate((2, 3, 1))]
    log = snapshot_of(tmp_path, [*twice, shown(9, "tea"), shown(10, "tea", session=("pot",))])

    prompts = prompts_of(log, "suggest", [day(0), day(1)], most=10)

    contexts = {(each.context.query, each.context.session, each.context.n) for each in prompts}
    assert contexts == {("rice", (), 3), ("tea", (), 3), ("tea", ("pot",), 3)}  # the longest list that was shown
    assert len({each.prompt_id for each in prompts}) == len(prompts) == 3
    assert all(each == prompt_of("suggest", each.context) for each in prompts)


def test_the_whole_context_is_read(tmp_path):
    full = replace(shown(1, "brown rice"), replaced={"context": json.dumps(as_logged(FULL))})

    (prompt,) = prompts_of(snapshot_of(tmp_path, [full]), "suggest", [day(0)], most=1)

    assert prompt.context == FULL


def test_other_days_and_tasks_are_left_out(tmp_path):
    log = snapshot_of(tmp_path, [shown(1, "rice"), shown(2, "tea", day=1), shown(3, "pot", task="clarify")])

    prompts = prompts_of(log, "suggest", [day(0)], most=10)

    assert [each.context.query for each in prompts] == ["rice"]


def test_the_sample_is_the_same_again_and_another_seed_takes_others(tmp_path):
    log = snapshot_of(tmp_path, [shown(k, f"topic {k}") for k in range(60)])

    def of(most: int, seed: int = 0) -> list[str]:
        return [each.prompt_id for each in prompts_of(log, "suggest", [day(0)], most=most, seed=seed)]

    assert of(20) == of(20)
    assert of(5) == of(20)[:5]
    assert set(of(20)) != set(of(20, seed=1))
    assert sorted(of(60)) == sorted(of(60, seed=1))


def test_the_sample_does_not_depend_on_what_is_let_go_on_the_way(tmp_path, monkeypatch):
    log = snapshot_of(tmp_path, [shown(k % 70, f"topic {k % 70}", day=k // 70, n=1 + k // 70) for k in range(140)])
    expected = prompts_of(log, "suggest", [day(0), day(1)], most=9)
    monkeypatch.setattr("trainer.prompts._KEPT_AT_LEAST", 1)

    assert prompts_of(log, "suggest", [day(0), day(1)], most=9) == expected
    assert {each.context.n for each in expected} == {2}


@pytest.mark.parametrize("context", ["{}", "[]", "no JSON", '{"history": [{"source": "else"}]}'])
def test_what_was_erased_or_cannot_be_read_is_left_out(tmp_path, context):
    gone = replace(shown(1, None), replaced={"context": context})

    prompts = prompts_of(snapshot_of(tmp_path, [gone, shown(2, "rice")]), "suggest", [day(0)], most=9)

    assert [each.context.query for each in prompts] == ["rice"]


def test_a_hint_needs_no_query_but_something_to_go_on(tmp_path):
    log = [shown(1, None, task="hint", n=1, session=("rice",)), shown(2, None, task="hint", n=1)]

    (prompt,) = prompts_of(snapshot_of(tmp_path, log), "hint", [day(0)], most=9)

    assert prompt.context == PromptContext(n=1, session=("rice",))


def test_days_without_a_list_are_a_clear_stop(tmp_path):
    log = snapshot_of(tmp_path, [shown(1, "rice")])

    with pytest.raises(ConfigurationError, match="no readable list of task 'suggest' on the days 2026-11-02"):
        prompts_of(log, "suggest", [day(1)], most=9)
    with pytest.raises(ConfigurationError, match="no such task"):
        prompts_of(log, "other", [day(0)], most=9)


def test_ids_are_those_that_were_published():
    # Runs are resumed by them: a change of the hash makes every stored candidate that of another prompt.
    assert (
        prompt_of("suggest", FULL).prompt_id
        == prompt_of("suggest", FULL).prompt_id
        != prompt_of("hint", FULL).prompt_id
    )
