"""A request always becomes a list, recorded where it can be, inside its deadline."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from random import Random
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
from service.pipeline.choose import Choice, Chooser
from service.pipeline.co_occurrence import CoOccurrence
from service.pipeline.generate import Generator
from service.pipeline.popular import PopularQueries
from service.pipeline.recommend import Recommender
from service.pipeline.record import Recorder
from service.pipeline.request import RecommendRequest
from service.pipeline.score import ClickPrediction
from tests.fakes import (
    KnowingPredictor,
    KnowingSearcher,
    SayingEngine,
    Serving,
    co_occurrence_of,
    own_policy,
    prediction_of,
)

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
    chooser: Chooser | None = None,
    **decoding: float,
) -> Recommender:
    generator = Generator(
        lambda *_: Serving(own_policy(), model), prompt_tokens=320, context_tokens=512, decoding=decoding
    )
    return Recommender(
        generator,
        chooser or Chooser(ClickPrediction({})),
        co_occurrence or co_occurrence_of(None),
        popular or popular_of(engine),
        Recorder(writer, SIGNER),
        co_queries_in_prompt=2,
    )


def popular_of(engine: AsyncEngine) -> PopularQueries:
    return PopularQueries(engine, min_people=5, days=28, timeout_s=2)


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


@pytest.mark.alone
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


@pytest.mark.alone
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


THREE = ["rice cooker price<sep>rice soup", "brown rice recipes<sep>rice calories", "<sep>"]


def likes_recipes(_: Sequence[str], text: str) -> float:
    return 0.5 if "recipes" in text else 0.125


async def test_the_best_of_several_lists_is_shown_and_the_row_says_by_which_predictor(
    engine: AsyncEngine, writer: GroupCommit
) -> None:
    model = SayingEngine(lambda _: THREE)
    prediction = await prediction_of(KnowingPredictor(likes_recipes))
    made = recommender(engine, writer, model, chooser=Chooser(prediction, Choice("best_of", best_of=3), timeout_s=1))

    reply = await made.recommend(REQUEST)

    (row,) = await rows(engine, impressions)
    assert [sampling.n for sampling in model.samplings] == [3] == [row["sampling"]["n"]]
    assert [(c["text"], c["score"], c["propensity"]) for c in row["candidates"]] == [
        ("brown rice recipes", 0.5, None),
        ("rice calories", 0.125, None),
    ]
    assert reply.trace.completion == " brown rice recipes<sep> rice calories"
    assert row["ctr_version"] == reply.versions["ctr"] == SIGNER.verify(reply.click_token).ctr_version == "ctr-1"
    assert row["timings"]["gather"] <= row["timings"]["generate"] <= row["timings"]["score"]
    await prediction.close()


async def test_what_must_not_be_shown_is_dropped_before_lists_are_scored(
    engine: AsyncEngine, writer: GroupCommit
) -> None:
    lists = ["www.evil.com recipes<sep>rice soup", "brown rice<sep>go to www.evil.com", "rice soup<sep>rice calories"]
    predictor = KnowingPredictor(likes_recipes)
    prediction = await prediction_of(predictor)
    chooser = Chooser(prediction, Choice("best_of", best_of=3), timeout_s=1)

    reply = await recommender(engine, writer, SayingEngine(lambda _: lists), chooser=chooser).recommend(REQUEST)

    assert predictor.asked == [[["rice soup"], ["rice soup", "rice calories"]]]
    assert [candidate.text for candidate in reply.slate.candidates] == ["rice soup", "rice calories"]
    assert reply.trace.refused == {"address": 2, "repeated": 1}
    await prediction.close()


async def test_a_greedy_policy_writes_one_list_which_is_scored(engine: AsyncEngine, writer: GroupCommit) -> None:
    model, prediction = SayingEngine(lambda _: THREE), await prediction_of(KnowingPredictor(likes_recipes))
    chooser = Chooser(prediction, Choice("best_of", best_of=3), timeout_s=1)

    reply = await recommender(engine, writer, model, chooser=chooser, temperature=0).recommend(REQUEST)

    assert [sampling.n for sampling in model.samplings] == [1]
    assert [candidate.score for candidate in reply.slate.candidates] == [0.125, 0.125]
    await prediction.close()


async def test_a_reordered_list_is_recorded_with_its_propensities(engine: AsyncEngine, writer: GroupCommit) -> None:
    prediction = await prediction_of(KnowingPredictor(likes_recipes))
    model = SayingEngine(lambda _: "rice soup<sep>brown rice recipes")
    chooser = Chooser(prediction, Choice("reorder", explore_share=0.5), timeout_s=1, random=Random(1))

    # Of this seed the first number is .13, so the order is drawn; by hand .5 + .5 / 2 or .5 / 2.
    await recommender(engine, writer, model, chooser=chooser).recommend(REQUEST)

    (row,) = await rows(engine, impressions)
    shown = {c["position"]: (c["text"], c["score"], c["propensity"]) for c in row["candidates"]}
    assert shown in (
        {1: ("rice soup", 0.125, 0.25), 2: ("brown rice recipes", 0.5, 0.25)},
        {1: ("brown rice recipes", 0.5, 0.75), 2: ("rice soup", 0.125, 0.75)},
    )
    await prediction.close()


@pytest.mark.alone
@pytest.mark.parametrize("use", ["best_of", "reorder"])
@pytest.mark.parametrize(
    ("predictor", "problem"),
    [
        (KnowingPredictor(likes_recipes, delay_s=0.5), "late"),
        (KnowingPredictor(lambda *_: RuntimeError("torch's own")), "failed"),
    ],
    ids=["slow", "dead"],
)
async def test_a_slow_or_dead_predictor_costs_neither_the_list_nor_the_deadline(
    engine: AsyncEngine, writer: GroupCommit, use: Any, predictor: KnowingPredictor, problem: str
) -> None:
    prediction = await prediction_of(predictor)
    chooser = Chooser(prediction, Choice(use, best_of=3), timeout_s=10)
    made = recommender(engine, writer, SayingEngine(lambda _: THREE), chooser=chooser)
    request, started = replace(REQUEST, deadline_s=0.3), time.monotonic()

    replies = await asyncio.gather(*(made.recommend(request) for _ in range(10)))

    assert time.monotonic() - started < 0.3 + 0.05
    for reply in replies:
        assert [candidate.text for candidate in reply.slate.candidates] == ["rice cooker price", "rice soup"]
        assert (reply.slate.served_by, reply.slate.degraded_reason) == (ServedBy.MODEL, None)
        assert (reply.versions["ctr"], reply.trace.ctr_problem) == (None, problem)
    await prediction.close()


async def test_what_the_model_did_not_write_is_not_scored(engine: AsyncEngine, writer: GroupCommit) -> None:
    predictor = KnowingPredictor(likes_recipes)
    prediction = await prediction_of(predictor)
    away = SayingEngine(lambda _: EngineUnavailable("off"))
    popular = await with_popular(engine, "beans")

    reply = await recommender(
        engine, writer, away, popular, chooser=Chooser(prediction, Choice("reorder", explore_share=0.5))
    ).recommend(REQUEST)

    assert [(c.text, c.score, c.propensity) for c in reply.slate.candidates] == [("beans", None, None)]
    assert (predictor.asked, reply.versions["ctr"]) == ([], None)
    await prediction.close()
