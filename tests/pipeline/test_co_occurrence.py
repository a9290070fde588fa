"""The build in service is replaced without a restart, and never by one that is damaged."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from service.contract.errors import ArtifactError, DatabaseError, NextQueryError
from service.contract.tasks import get_task
from service.contract.types import Candidate, EventSource, HistoryEvent, PromptContext, ServedBy
from service.pipeline.co_occurrence import CoOccurrence
from service.pipeline.gather import context_of, gather
from service.pipeline.looking import Looking
from service.pipeline.rank import rank
from service.pipeline.request import RecommendRequest, Trace
from tests.fakes import KnowingSearcher, co_occurrence_of, own_tokenizer
from tests.pipeline.test_rank import FORBIDDEN, PAYLOADS

SUGGEST = get_task("suggest")
RICE = PromptContext(n=3, query="rice")


class Registry:
    """Has a champion, which the test changes; opening it may fail."""

    def __init__(self) -> None:
        self.searcher: KnowingSearcher | None = None
        self.failure: Exception | None = None
        self.away = False
        self.opened = 0

    async def newest(self) -> tuple[str, Callable[[], Awaitable[Any]]] | None:
        if self.away:
            raise DatabaseError("The database is away.")
        return (self.searcher.version, self.open_it) if self.searcher else None

    async def open_it(self) -> Any:
        self.opened += 1
        if self.failure:
            raise self.failure
        return self.searcher


async def answers(made: CoOccurrence) -> tuple[list[str], str | None]:
    found, version = await made.search(SUGGEST, RICE, within_s=1)
    return [each.text for each in found.queries], version


async def test_a_new_build_is_taken_up_and_the_old_one_closed_later() -> None:
    registry = Registry()
    made = CoOccurrence(registry.newest, tasks=["suggest"])
    await made.refresh()
    before = await answers(made)
    registry.searcher = first = KnowingSearcher({"rice": ["brown rice"]}, version="cor-1")
    await made.refresh()
    await made.refresh()
    then = await answers(made)
    registry.searcher = KnowingSearcher({"rice": ["wild rice"]}, version="cor-2")
    await made.refresh()

    after = await answers(made)

    assert (before, then, after) == (([], None), (["brown rice"], "cor-1"), (["wild rice"], "cor-2"))
    assert registry.opened == 2
    assert not first.closed  # a request may still be asking it
    await made.close()


@pytest.mark.parametrize("failure", [ArtifactError("It is damaged."), NextQueryError("Anything of ours.")])
async def test_a_damaged_build_leaves_the_good_one_in_service(failure: Exception) -> None:
    registry = Registry()
    registry.searcher = KnowingSearcher({"rice": ["brown rice"]}, version="cor-1")
    made = CoOccurrence(registry.newest, tasks=["suggest"])
    await made.refresh()
    registry.searcher, registry.failure = KnowingSearcher({}, version="cor-2"), failure

    await made.refresh()

    assert await answers(made) == (["brown rice"], "cor-1")
    assert made.problem == str(failure)
    registry.failure = None
    await made.refresh()
    assert (made.version, made.problem) == ("cor-2", None)
    await made.close()


async def test_looking_goes_on_whatever_happens() -> None:
    registry = Registry()
    made, looking = CoOccurrence(registry.newest, tasks=["suggest"]), Looking()
    registry.away = True
    looking.begin(made.refresh, 0.01)
    await asyncio.sleep(0.05)
    registry.away, registry.failure = False, RuntimeError("FAISS's own")
    registry.searcher = KnowingSearcher({"rice": ["brown rice"]})
    await asyncio.sleep(0.05)
    problem = made.problem
    registry.failure = None

    await asyncio.sleep(0.05)

    assert problem == "RuntimeError: FAISS's own"
    assert made.version == "cor-1"
    await looking.end(1)
    await made.close()


async def test_a_task_that_is_switched_off_gets_none() -> None:
    searcher = KnowingSearcher({"rice": ["brown rice"]})
    made = co_occurrence_of(searcher, tasks=["hint"])
    await made.refresh()

    assert await answers(made) == ([], None)
    assert searcher.asked == []
    await made.close()


@pytest.mark.parametrize(
    ("context", "asked"),
    [
        (PromptContext(n=1, query="rice", session=("tea",)), ["rice"]),
        (PromptContext(n=1, session=("tea", "pasta")), ["pasta"]),
        (
            PromptContext(
                n=1,
                history=(
                    HistoryEvent(source=EventSource.SEARCH, text="bread"),
                    HistoryEvent(source=EventSource.PURCHASE, text="oven"),
                ),
            ),
            ["bread"],
        ),
        (PromptContext(n=1), []),
    ],
)
async def test_what_was_typed_last_is_looked_up(context: PromptContext, asked: list[str]) -> None:
    searcher = KnowingSearcher({})
    made = co_occurrence_of(searcher)
    await made.refresh()

    await made.search(SUGGEST, context, within_s=1)

    assert searcher.asked == asked
    await made.close()


async def test_a_slow_search_ends_with_its_share_of_the_deadline() -> None:
    made = co_occurrence_of(KnowingSearcher({"rice": ["brown rice"]}, delay_s=5))
    await made.refresh()

    found, version = await made.search(SUGGEST, RICE, within_s=0.02)

    assert (found.problem, version) == ("late", "cor-1")
    await made.close()


@pytest.mark.parametrize("task", ["suggest", "snippets", "hint", "clarify", "predict"])
async def test_a_hostile_co_occurrence_row_changes_neither_format_nor_instructions(task: str) -> None:
    request = RecommendRequest(task=get_task(task), n=3, deadline_s=5, query="rice")
    plain = request.task.render(context_of(request), own_tokenizer(), budget=320).text.splitlines()

    for payload in PAYLOADS:
        made = co_occurrence_of(KnowingSearcher({"rice": [payload, "brown rice"]}), tasks=[task])
        await made.refresh()
        context, shown = await gather(request, made, Trace(), in_prompt=5)
        lines = request.task.render(context, own_tokenizer(), budget=320).text.splitlines()

        added = [line for line in lines if line not in plain]
        assert [line for line in lines if line in plain] == plain
        assert added
        assert all(line.startswith("Often next: ") for line in added)
        assert not any(FORBIDDEN.search(line) for line in added)
        assert not any(FORBIDDEN.search(each.text) for each in shown)
        await made.close()


async def test_a_hostile_co_occurrence_row_is_never_shown_when_the_model_is_away() -> None:
    request = RecommendRequest(task=SUGGEST, n=5, deadline_s=5, query="rice")

    for payload in PAYLOADS:
        made = co_occurrence_of(KnowingSearcher({"rice": [payload, "brown rice"]}))
        await made.refresh()
        _, found = await gather(request, made, Trace(), in_prompt=5)

        shown = rank(
            [Candidate(text=each.text, source=ServedBy.COR) for each in found], n=5, asked=["rice"], refused={}
        )

        assert "brown rice" in [candidate.text for candidate in shown]
        assert not any(FORBIDDEN.search(candidate.text) for candidate in shown)
        assert all(candidate.text.isprintable() for candidate in shown)
        await made.close()
