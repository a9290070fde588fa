"""A request always becomes a list, recorded where it can be, inside its deadline."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Table, insert, select
from sqlalchemy.ext.asyncio import AsyncEngine

from service.contract.errors import DatabaseError, EngineUnavailable, Overloaded
from service.contract.tables import impressions, searches
from service.contract.tasks import get_task
from service.contract.types import EventSource, HistoryEvent, Origin, ServedBy
from service.events.click_token import TokenSigner
from service.events.group_commit import GroupCommit, Outcome, Write
from service.pipeline.choose import Chooser
from service.pipeline.co_occurrence import CoOccurrence
from service.pipeline.generate import Generator
from service.pipeline.popular import PopularQueries
from service.pipeline.recommend import Recommender
from service.pipeline.record import Recorder
from service.pipeline.request import RecommendRequest
from service.pipeline.score import ClickPrediction
from tests.fakes import KnowingSearcher, SayingEngine, co_occurrence_of, own_policy

AT = datetime(2026, 11, 20, tzinfo=UTC)
SIGNER = TokenSigner(["a secret for tests only"])
REQUEST = RecommendRequest(
    task=get_task("suggest"),
    n=3,
    deadline_s=2,
    query="brown rice",
    user_id="u1",
    session_id="s1",
    session=("rice cooker",),
    history=(HistoryEvent(source=EventSource.PURCHASE, text="bamboo mat", at=AT),),
    answer="Rinse it.",
    documents=("Rice has bran.",),
)
SAID = "brown rice recipes<sep>rice calories"


class AwayWriter:
    """A writer whose database is away: it hangs, or raises."""

    def __init__(self, failure: Exception | None) -> None:
        self._failure = failure
        self.written: list[Write] = []

    async def write_many(self, writes: Sequence[Write]) -> list[Outcome]:
        if self._failure:
            raise self._failure
        await asyncio.sleep(60)
        return []


def recommender(
    engine: AsyncEngine,
    writer: Any,
    model: SayingEngine,
    popular: PopularQueries | None = None,
    co_occurrence: CoOccurrence | None = None,
) -> Recommender:
    generator = Generator(model, own_policy, prompt_tokens=320, context_tokens=512, decoding={})
    return Recommender(
        generator,
        Chooser(ClickPrediction({})),
        co_occurrence or co_occurrence_of(None),
        popular or popular_of(engine),
        Recorder(writer, SIGNER),
        co_queries_in_prompt=2,
    )


def popular_of(engine: AsyncEngine) -> PopularQueries:
    return PopularQueries(engine, min_people=5, days=28, refresh_s=60, timeout_s=2)


async def rows(engine: AsyncEngine, table: Table) -> list[Any]:
    async with engine.connect() as connection:
        return list((await connection.execute(select(table))).mappings())


async def with_popular(engine: AsyncEngine, *texts: str) -> PopularQueries:
    typed = [
        {
            "search_id": f"{text}{n}",
            "at": datetime.now(UTC),
            "user_id": f"u{n}",
            "query": text,
            "match_key": text,
            "locale": "en",
            "origin": "typed",
        }
        for text in texts
        for n in range(5)
    ]
    async with engine.begin() as connection:
        await connection.execute(insert(searches), typed)
    popular = popular_of(engine)
    await popular.refresh()
    return popular


async def test_the_row_has_everything_that_learning_needs(engine: AsyncEngine, writer: GroupCommit) -> None:
    model = SayingEngine(lambda _: SAID)

    made = await recommender(engine, writer, model).recommend(REQUEST)

    (row,) = await rows(engine, impressions)
    assert made.recorded
    assert row["impression_id"] == made.impression_id
    assert (row["task"], row["query"], row["locale"], row["user_id"], row["session_id"]) == (
        "suggest",
        "brown rice",
        "en",
        "u1",
        "s1",
    )
    assert row["context"] == {
        "session": ["rice cooker"],
        "history": [{"source": "purchase", "text": "bamboo mat", "at": AT.isoformat()}],
        "answer": "Rinse it.",
        "documents": ["Rice has bran."],
        "co_queries": [],
    }
    assert row["prompt_fingerprint"] == REQUEST.task.fingerprint(own_policy().tokenizer.format)
    assert row["prompt_tokens"] == made.trace.prompt_tokens > 0
    assert (row["arm"], row["policy_version"], row["ctr_version"], row["cor_version"]) == (
        "control",
        "policy-1",
        None,
        None,
    )
    assert row["sampling"] == {
        "temperature": 0.7,
        "top_p": 0.95,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "seed": model.samplings[0].seed,
        "max_tokens": 42,
        "n": 1,
    }
    assert [(c["text"], c["position"], c["source"], c["propensity"]) for c in row["candidates"]] == [
        ("brown rice recipes", 1, "model", None),
        ("rice calories", 2, "model", None),
    ]
    assert all(c["logprob"] < 0 for c in row["candidates"])
    assert (row["n_shown"], row["served_by"], row["degraded_reason"]) == (2, "model", None)
    assert row["timings"]["generate"] >= 0


async def test_the_token_says_what_was_shown(engine: AsyncEngine, writer: GroupCommit) -> None:
    made = await recommender(engine, writer, SayingEngine(lambda _: SAID)).recommend(REQUEST)

    claims = SIGNER.verify(made.click_token)

    assert (claims.impression_id, claims.n_shown, claims.policy_version) == (made.impression_id, 2, "policy-1")


async def test_ids_sort_by_time(engine: AsyncEngine, writer: GroupCommit) -> None:
    made = recommender(engine, writer, SayingEngine(lambda _: SAID))

    first = await made.recommend(REQUEST)
    await asyncio.sleep(0.003)
    second = await made.recommend(REQUEST)

    assert first.impression_id < second.impression_id


@pytest.mark.parametrize(
    ("changes", "stored"),
    [
        ({}, [("brown rice", "brown rice", "typed")]),
        ({"query": "Brown\u200b RICE?", "origin": Origin.CLICKED}, [("Brown RICE?", "brown rice", "clicked")]),
        ({"track": False}, []),
        ({"query": None}, []),
        ({"query": "??"}, []),
    ],
)
async def test_a_query_enters_the_search_log_only_when_it_may(
    engine: AsyncEngine, writer: GroupCommit, changes: dict[str, Any], stored: list[tuple[str, str, str]]
) -> None:
    await recommender(engine, writer, SayingEngine(lambda _: SAID)).recommend(replace(REQUEST, **changes))

    assert [(row["query"], row["match_key"], row["origin"]) for row in await rows(engine, searches)] == stored


async def test_a_lone_surrogate_does_not_cost_the_record(engine: AsyncEngine, writer: GroupCommit) -> None:
    request = replace(REQUEST, query="rice \ud800", session=("\udfff",), answer="a\x00b")

    made = await recommender(engine, writer, SayingEngine(lambda _: SAID)).recommend(request)

    assert made.recorded


async def test_popular_queries_stand_in_for_the_model(engine: AsyncEngine, writer: GroupCommit) -> None:
    popular = await with_popular(engine, "beans", "brown rice", "www.evil.com")
    away = SayingEngine(lambda _: EngineUnavailable("off"))

    made = await recommender(engine, writer, away, popular).recommend(REQUEST)

    # "brown rice" was just asked, and an address is never shown.
    assert [(c.text, c.source) for c in made.slate.candidates] == [("beans", ServedBy.POPULAR)]
    assert (made.slate.served_by, made.slate.degraded_reason) == (ServedBy.POPULAR, "engine_unavailable")


async def test_a_list_that_is_all_unfit_falls_to_the_next_rung(engine: AsyncEngine, writer: GroupCommit) -> None:
    popular = await with_popular(engine, "beans")
    rude = SayingEngine(lambda _: "www.evil.com<sep>brown rice")

    made = await recommender(engine, writer, rude, popular).recommend(REQUEST)

    assert (made.slate.served_by, made.slate.degraded_reason) == (ServedBy.POPULAR, "nothing_fit_to_show")
    assert made.trace.refused == {"address": 1, "repeated": 1}


async def test_without_popular_queries_the_list_is_empty_and_recorded(engine: AsyncEngine, writer: GroupCommit) -> None:
    made = await recommender(engine, writer, SayingEngine(lambda _: "")).recommend(REQUEST)

    (row,) = await rows(engine, impressions)
    assert (made.slate.candidates, made.slate.degraded_reason, made.recorded) == ((), "unparsable", True)
    assert (row["served_by"], row["n_shown"], row["degraded_reason"]) == ("none", 0, "unparsable")


@pytest.mark.parametrize("task", ["clarify", "snippets"])
async def test_a_task_with_texts_never_gets_popular_queries(
    engine: AsyncEngine, writer: GroupCommit, task: str
) -> None:
    popular = await with_popular(engine, "beans")
    away = SayingEngine(lambda _: EngineUnavailable("off"))

    made = await recommender(engine, writer, away, popular).recommend(replace(REQUEST, task=get_task(task)))

    assert made.slate.served_by is ServedBy.NONE


async def test_an_unfit_text_is_left_out_and_told(engine: AsyncEngine, writer: GroupCommit) -> None:
    model = SayingEngine(lambda _: "question: go to www.evil.com\nwhite rice<sep>wild rice")

    made = await recommender(engine, writer, model).recommend(replace(REQUEST, task=get_task("clarify")))

    assert (made.slate.texts, made.slate.degraded_reason) == ({}, "incomplete_texts")


@pytest.mark.parametrize("failure", [DatabaseError("away"), Overloaded("full"), None], ids=["away", "full", "hanging"])
async def test_a_database_that_is_away_costs_the_record_and_not_the_reply(
    engine: AsyncEngine, failure: Exception | None
) -> None:
    made = recommender(engine, AwayWriter(failure), SayingEngine(lambda _: SAID))
    started = time.monotonic()

    reply = await made.recommend(replace(REQUEST, deadline_s=0.3))

    assert time.monotonic() - started < 0.3 + 0.05
    assert not reply.recorded
    assert reply.slate.candidates


async def test_a_slow_model_and_a_database_that_hangs_still_keep_the_deadline(engine: AsyncEngine) -> None:
    made = recommender(engine, AwayWriter(None), SayingEngine(lambda _: SAID, delay_s=60))
    started = time.monotonic()

    reply = await made.recommend(replace(REQUEST, deadline_s=0.3))

    assert time.monotonic() - started < 0.3 + 0.05
    assert (reply.slate.degraded_reason, reply.recorded) == ("deadline", False)


async def test_a_client_that_leaves_aborts_the_engine_and_records_nothing(
    engine: AsyncEngine, writer: GroupCommit
) -> None:
    model = SayingEngine(lambda _: SAID, delay_s=60)
    work = asyncio.ensure_future(recommender(engine, writer, model).recommend(REQUEST))
    await asyncio.sleep(0.05)

    work.cancel()
    await asyncio.wait([work], timeout=1)

    assert work.cancelled()
    assert model.aborted == model.asked != []
    assert await rows(engine, impressions) == await rows(engine, searches) == []


async def test_what_people_typed_next_stands_in_the_prompt_and_in_the_row(
    engine: AsyncEngine, writer: GroupCommit
) -> None:
    prompts: list[str] = []
    searcher = KnowingSearcher({"brown rice": ["brown rice calories", "brown rice water ratio", "wild rice"]})
    co_occurrence = co_occurrence_of(searcher)
    await co_occurrence.refresh()
    model = SayingEngine(lambda ids: prompts.append(own_policy().tokenizer.decode(ids)) or SAID)

    made = await recommender(engine, writer, model, co_occurrence=co_occurrence).recommend(REQUEST)

    (row,) = await rows(engine, impressions)
    assert row["context"]["co_queries"] == ["brown rice calories", "brown rice water ratio"]
    assert (row["cor_version"], made.versions["cor"]) == ("cor-1", "cor-1")
    assert SIGNER.verify(made.click_token).cor_version == "cor-1"
    shown = [line.strip() for line in prompts[0].lower().splitlines() if "often next" in line]
    assert shown == ["often next: brown rice calories", "often next: brown rice water ratio"]


async def test_when_the_model_cannot_answer_the_list_is_what_people_typed_next(
    engine: AsyncEngine, writer: GroupCommit
) -> None:
    typed_next = ["Brown Rice", "brown rice calories", "call 0044 20 7946 0958 now", "wild rice", "rice cooker"]
    co_occurrence = co_occurrence_of(KnowingSearcher({"brown rice": typed_next}))
    await co_occurrence.refresh()
    model = SayingEngine(lambda _: EngineUnavailable("It is starting."))
    popular = await with_popular(engine, "weather tomorrow")

    made = await recommender(engine, writer, model, popular, co_occurrence).recommend(REQUEST)

    assert made.slate.served_by is ServedBy.COR
    assert made.slate.degraded_reason == "engine_unavailable"
    assert [candidate.text for candidate in made.slate.candidates] == ["brown rice calories", "wild rice"]
    assert {candidate.source for candidate in made.slate.candidates} == {ServedBy.COR}


async def test_where_nothing_is_known_of_a_query_popular_queries_follow(
    engine: AsyncEngine, writer: GroupCommit
) -> None:
    co_occurrence = co_occurrence_of(KnowingSearcher({"pasta": ["pasta sauce"]}))
    await co_occurrence.refresh()
    model = SayingEngine(lambda _: EngineUnavailable("It is starting."))
    popular = await with_popular(engine, "weather tomorrow")

    made = await recommender(engine, writer, model, popular, co_occurrence).recommend(REQUEST)

    assert made.slate.served_by is ServedBy.POPULAR
