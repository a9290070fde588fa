"""POST /recommend end to end, on both databases: what is answered, what is stored.

It knows nothing about hostile input (test_hostile) or size (test_limits).
"""

import asyncio
import json
import time
from datetime import timedelta
from typing import Any

import pytest

from service.contract.tasks import all_tasks
from tests.api.conftest import Api, OpenApi, age
from tests.service_process import rows

_TASKS = sorted(all_tasks())


@pytest.mark.parametrize("task", _TASKS)
async def test_every_task_gets_a_list_of_the_model_that_is_recorded_before_the_reply(
    api: Api, database_url: str, task: str
) -> None:
    reply = await api.recommend(task=task, query="kyoto in autumn", session=["japan"])

    stored = _impression(database_url, reply["impression_id"])
    assert reply["task"] == task
    assert reply["served_by"] == "model"
    assert reply["recorded"] is True
    assert [query["position"] for query in reply["queries"]] == list(range(1, len(reply["queries"]) + 1))
    assert 1 <= len(reply["queries"]) <= all_tasks()[task].default_n
    assert stored["task"] == task
    assert stored["n_shown"] == len(reply["queries"])


@pytest.mark.parametrize("task", _TASKS)
async def test_with_the_engine_off_every_task_gets_an_empty_list_that_says_why(open_api: OpenApi, task: str) -> None:
    async with open_api(engine="off") as api:
        reply = await api.recommend(task=task, query="kyoto in autumn")

    assert (reply["queries"], reply["served_by"]) == ([], "none")
    assert reply["degraded_reason"] == "engine_unavailable"
    assert reply["recorded"] is True


async def test_popular_queries_stand_in_for_the_model_when_enough_people_typed_them(open_api: OpenApi) -> None:
    async with open_api(engine="off", popular_min_people=2) as api:
        for user, query in [("u1", "tokyo hotels"), ("u2", "Tokyo hotels?"), ("u1", "only mine"), ("u1", "only mine")]:
            await api.recommend(query=query, user_id=user)
        await api.app.state.runtime.popular.refresh()

        reply = await api.recommend(query="kyoto", user_id="u3")

    assert [query["text"] for query in reply["queries"]] == ["tokyo hotels"]
    assert (reply["served_by"], reply["queries"][0]["source"]) == ("popular", "popular")
    assert reply["degraded_reason"] == "engine_unavailable"


@pytest.mark.parametrize("n", [1, 2])
async def test_a_list_is_no_longer_than_n(api: Api, n: int) -> None:
    reply = await api.recommend(n=n)

    assert len(reply["queries"]) == n


@pytest.mark.parametrize("n", [0, -1, 11, 21])
async def test_an_n_that_the_task_does_not_give_is_refused(api: Api, n: int) -> None:
    reply = await api.post("/recommend", json={"task": "suggest", "query": "kyoto", "n": n})

    assert reply.status_code == 422
    assert reply.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("task", ["hint", "predict"])
async def test_a_task_without_a_query_goes_on_from_the_last_one(api: Api, database_url: str, task: str) -> None:
    reply = await api.recommend(task=task, query=None, session=["kyoto", "kyoto in autumn"])

    assert reply["served_by"] == "model"
    assert rows(database_url, "searches") == []


async def test_with_nothing_to_go_on_the_list_says_so(api: Api) -> None:
    reply = await api.recommend(task="hint", query=None)

    assert reply["degraded_reason"] == "nothing_to_go_on"


@pytest.mark.alone
async def test_a_slow_engine_loses_to_the_deadline_and_the_reply_is_on_time(api: Api) -> None:
    _scripted(api).delay_s = 5.0
    started = time.monotonic()

    reply = await api.recommend(timeout_ms=300)

    assert time.monotonic() - started < 0.35
    assert (reply["served_by"], reply["degraded_reason"]) == ("none", "deadline")
    assert _scripted(api).running == 0


async def test_the_shortest_deadline_is_kept(api: Api) -> None:
    _scripted(api).delay_s = 1.0

    replies = await asyncio.gather(*(api.recommend(timeout_ms=10) for _ in range(20)))

    assert {reply["degraded_reason"] for reply in replies} == {"deadline"}


@pytest.mark.parametrize("timeout_ms", [0, 9, 10_001])
async def test_a_deadline_beyond_the_bounds_is_refused(api: Api, timeout_ms: int) -> None:
    reply = await api.post("/recommend", json={"task": "suggest", "query": "kyoto", "timeout_ms": timeout_ms})

    assert reply.status_code == 422


async def test_explain_says_how_the_list_was_made_and_only_when_asked(api: Api) -> None:
    plain = await api.recommend()
    explained = await api.recommend(explain=True)

    assert "explain" not in plain
    assert "kyoto in autumn" in explained["explain"]["prompt"]
    assert explained["explain"]["prompt_tokens"] > 0
    assert explained["explain"]["completion"]
    assert explained["explain"]["sampling"].keys() >= {"temperature", "top_p", "seed", "max_tokens"}


@pytest.mark.parametrize("locale", ["de", "pt-BR", "ZH_hant_TW"])
async def test_a_language_that_the_policy_does_not_write_gets_a_lower_rung_and_says_so(api: Api, locale: str) -> None:
    reply = await api.recommend(locale=locale)

    assert reply["served_by"] != "model"
    assert reply["degraded_reason"] == "locale_not_supported"


@pytest.mark.parametrize("locale", ["en", "EN", "en-GB", "en_us"])
async def test_a_language_that_the_policy_writes_gets_the_model_however_it_is_spelled(api: Api, locale: str) -> None:
    reply = await api.recommend(locale=locale)

    assert reply["served_by"] == "model"


async def test_an_impression_holds_everything_that_learning_needs(api: Api, database_url: str) -> None:
    asked = {
        "query": "kyoto in autumn",
        "user_id": "u-1",
        "session_id": "s-1",
        "session": ["japan"],
        "history": [{"source": "purchase", "text": "guide book", "at": "2026-01-02T03:04:05Z"}],
        "answer": "Kyoto is lovely.",
        "documents": ["a page about temples"],
        "locale": "en-GB",
    }

    reply = await api.recommend(**asked)

    row = _impression(database_url, reply["impression_id"])
    context = _json(row["context"])
    shown = _json(row["candidates"])
    assert (row["user_id"], row["session_id"], row["query"], row["locale"]) == ("u-1", "s-1", asked["query"], "en-gb")
    assert (context["session"], context["answer"], context["documents"]) == (
        asked["session"],
        asked["answer"],
        asked["documents"],
    )
    assert [(event["source"], event["text"]) for event in context["history"]] == [("purchase", "guide book")]
    assert context["co_queries"] == []
    assert row["prompt_fingerprint"] == reply["versions"]["prompt"]
    assert row["policy_version"] == reply["versions"]["policy"] == "policy-of-tests"
    assert (row["arm"], row["tenant"], row["ctr_version"], row["cor_version"]) == ("control", "default", None, None)
    assert _json(row["sampling"]).keys() >= {"temperature", "top_p", "seed", "max_tokens"}
    assert [(c["text"], c["position"]) for c in shown] == [(q["text"], q["position"]) for q in reply["queries"]]
    assert all(c["logprob"] < 0 and c["source"] == "model" and c["propensity"] is None for c in shown)
    assert (row["served_by"], row["degraded_reason"]) == ("model", None)
    assert _json(row["timings"])["generate"] > 0
    assert age(row["at"]) < timedelta(seconds=30)


@pytest.mark.parametrize("origin", ["typed", "clicked"])
async def test_a_tracked_query_enters_the_search_log_with_its_origin(api: Api, database_url: str, origin: str) -> None:
    reply = await api.recommend(query="  Kyoto in   AUTUMN? ", user_id="u-1", session_id="s-1", origin=origin)

    (row,) = rows(database_url, "searches")
    assert (row["query"], row["match_key"]) == ("Kyoto in AUTUMN?", "kyoto in autumn")
    assert (row["origin"], row["user_id"], row["session_id"]) == (origin, "u-1", "s-1")
    assert row["impression_id"] == reply["impression_id"]


async def test_an_untracked_query_stays_out_of_the_search_log(api: Api, database_url: str) -> None:
    await api.recommend(track=False)

    assert rows(database_url, "searches") == []


def _scripted(api: Api) -> Any:
    return api.app.state.runtime.policies.of("suggest").engine._engine


def _impression(database_url: str, impression_id: str) -> dict[str, Any]:
    return next(row for row in rows(database_url, "impressions") if row["impression_id"] == impression_id)


def _json(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value
