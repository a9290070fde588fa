"""A context survives the log, and what was erased from it does no harm."""

import json
from datetime import UTC, datetime

import pytest

from service.contract.logged_context import as_logged, from_log
from service.contract.types import EventSource, HistoryEvent, PromptContext

FULL = PromptContext(
    n=3,
    query="rice",
    session=("what is rice", "rice"),
    history=(
        HistoryEvent(source=EventSource.SEARCH, text="pots"),
        HistoryEvent(source=EventSource.PURCHASE, text="a pot", at=datetime(2026, 11, 1, 12, 30, tzinfo=UTC)),
    ),
    answer="Boil it.",
    documents=("d1", "d2"),
    co_queries=("rice cooker",),
)


@pytest.mark.parametrize("context", [FULL, PromptContext(n=1)], ids=["full", "empty"])
def test_a_context_comes_back_from_the_log_as_it_was(context):
    logged = json.loads(json.dumps(as_logged(context)))

    assert from_log(logged, n=context.n, query=context.query) == context


def test_the_query_and_the_length_are_not_repeated():
    assert sorted(as_logged(FULL)) == ["answer", "co_queries", "documents", "history", "session"]


def test_what_was_erased_is_left_out():
    logged = {"session": ["a", None], "answer": None}

    assert from_log(logged, n=2, query=None) == PromptContext(n=2, session=("a",))


@pytest.mark.parametrize(
    "logged", [{"history": [{"source": "dream", "text": "x"}]}, {"history": [{}]}, {"session": 3}, []]
)
def test_what_is_no_context_is_told_by_one_of_four_errors(logged):
    with pytest.raises((ValueError, TypeError, KeyError, AttributeError)):
        from_log(logged, n=1, query=None)
