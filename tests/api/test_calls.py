"""The calls end to end, on both databases: what is answered, what is stored, what is counted and what is logged.

It knows nothing about hostile input (test_hostile) or size (test_limits).
"""

import asyncio
import json
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.contract.settings import Timeouts
from service.contract.tasks import all_tasks
from service.engines.scripted import Scripted
from service.events.click_token import ClickClaims, TokenSigner, load_or_create_secret
from tests.api.conftest import Api, OpenApi
from tests.service_process import ServiceProcess, rows, running

_TASKS = sorted(all_tasks())
_SECRET_QUERY = "a query that nobody may read in a log"


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
    assert _age(row["at"]) < timedelta(seconds=30)


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


async def test_a_click_is_202_and_stored_and_the_same_click_again_200_and_a_duplicate(
    api: Api, database_url: str
) -> None:
    shown = await api.recommend()
    event = {"click_token": shown["click_token"], "kind": "click", "position": 2, "at": "2026-01-02T03:04:05+02:00"}

    first = await api.post("/click", json=event)
    second = await api.post("/click", json=event)

    (row,) = rows(database_url, "clicks")
    assert (first.status_code, first.json()["results"]) == (202, [{"index": 0, "status": "stored", "reason": None}])
    assert (second.status_code, second.json()["results"][0]["status"]) == (200, "duplicate")
    assert (row["impression_id"], row["position"], row["kind"]) == (shown["impression_id"], 2, "click")
    assert (row["task"], row["arm"], row["policy_version"]) == ("suggest", "control", "policy-of-tests")
    assert _age(row["at"]) < timedelta(seconds=30)
    assert _moment(row["client_at"]) == datetime(2026, 1, 2, 1, 4, 5, tzinfo=UTC)


async def test_each_kind_of_event_on_one_list_is_an_event_of_its_own(api: Api, database_url: str) -> None:
    token = (await api.recommend())["click_token"]
    events = [("seen", 0, None), ("click", 1, None), ("click", 2, None), ("dismiss", 0, None), ("submit", 0, "kyoto")]

    for kind, position, query in events:
        body = {"click_token": token, "kind": kind, "position": position, **({"query": query} if query else {})}
        assert (await api.post("/click", json=body)).status_code == 202

    assert {(row["kind"], row["position"], row["query"]) for row in rows(database_url, "clicks")} == set(events)


@pytest.mark.parametrize(
    "event", [("click", 0, None), ("seen", 1, None), ("dismiss", 1, None), ("submit", 0, None), ("submit", 0, "  ")]
)
async def test_an_event_that_makes_no_sense_is_refused_with_the_way_out(api: Api, event: tuple[Any, ...]) -> None:
    kind, position, query = event
    token = (await api.recommend())["click_token"]

    reply = await api.post("/click", json={"click_token": token, "kind": kind, "position": position, "query": query})

    assert reply.status_code == 422
    assert reply.json()["errors"][0]["message"].endswith(".")


async def test_the_same_click_a_thousand_times_at_once_is_one_row_and_one_202(
    open_api: OpenApi, database_url: str
) -> None:
    async with open_api(max_in_flight=1000, timeouts=Timeouts(click_s=60)) as api:
        event = {"click_token": (await api.recommend())["click_token"], "kind": "click", "position": 1}

        replies = await asyncio.gather(*(api.post("/click", json=event) for _ in range(1000)))

    statuses = sorted(reply.status_code for reply in replies)
    assert statuses == [200] * 999 + [202]
    assert len(rows(database_url, "clicks")) == 1


async def test_each_event_of_a_batch_has_its_own_result_in_the_order_sent(api: Api, database_url: str) -> None:
    token = (await api.recommend())["click_token"]
    good = {"click_token": token, "kind": "click", "position": 1}
    events = [good, {**good, "click_token": "a.b"}, good, {"kind": "click"}, {**good, "kind": "seen", "position": 0}]

    reply = await api.post("/click", json={"events": events})

    results = reply.json()["results"]
    assert reply.status_code == 202
    assert [result["index"] for result in results] == [0, 1, 2, 3, 4]
    assert [result["status"] for result in results] == ["stored", "quarantined", "duplicate", "refused", "stored"]
    assert [bool(result["reason"]) for result in results] == [False, True, False, True, False]
    assert len(rows(database_url, "clicks")) == 2


async def test_a_batch_of_a_thousand_events_is_stored_whole(api: Api, tmp_path: Path, database_url: str) -> None:
    signer = _signer(tmp_path)
    events = [{"click_token": signer.sign(_claims()), "kind": "click", "position": 1} for _ in range(1000)]

    reply = await api.post("/click", json={"events": events})

    assert {result["status"] for result in reply.json()["results"]} == {"stored"}
    assert len(rows(database_url, "clicks")) == 1000


@pytest.mark.parametrize("count", [0, 1001])
async def test_a_batch_of_none_or_too_many_is_refused(api: Api, count: int) -> None:
    events = [{"click_token": "a.b", "kind": "seen"}] * count

    reply = await api.post("/click", json={"events": events})

    assert reply.status_code == 422


async def test_a_beacon_may_call_its_json_text(api: Api, database_url: str) -> None:
    token = (await api.recommend())["click_token"]
    event = f'{{"click_token":"{token}","kind":"click","position":1}}'

    reply = await api.post("/click", content=event, headers={"content-type": "text/plain;charset=UTF-8"})

    assert reply.status_code == 202
    assert len(rows(database_url, "clicks")) == 1


@pytest.mark.parametrize(("position", "origin"), [(0, "typed"), (2, "clicked")])
async def test_a_submit_enters_the_search_log_once_typed_or_clicked(
    api: Api, database_url: str, position: int, origin: str
) -> None:
    shown = await api.recommend(track=False)
    event = {
        "click_token": shown["click_token"],
        "kind": "submit",
        "position": position,
        "query": "Kyoto  temples",
        "user_id": "u-1",
        "session_id": "s-1",
    }

    for _ in range(2):
        await api.post("/click", json=event)

    (row,) = rows(database_url, "searches")
    assert (row["query"], row["match_key"], row["origin"]) == ("Kyoto temples", "kyoto temples", origin)
    assert (row["user_id"], row["session_id"], row["impression_id"]) == ("u-1", "s-1", shown["impression_id"])


async def test_a_click_before_its_impression_is_visible_is_stored(api: Api, tmp_path: Path, database_url: str) -> None:
    claims = _claims()

    reply = await api.post(
        "/click", json={"click_token": _signer(tmp_path).sign(claims), "kind": "click", "position": 1}
    )

    assert reply.status_code == 202
    assert rows(database_url, "impressions") == []
    assert rows(database_url, "clicks")[0]["impression_id"] == claims.impression_id


async def test_an_expired_click_is_403_quarantined_and_not_stored(api: Api, tmp_path: Path, database_url: str) -> None:
    token = _signer(tmp_path).sign(_claims(expires_at=int(time.time()) - 1))

    reply = await api.post("/click", json={"click_token": token, "kind": "click", "position": 1})

    (kept,) = rows(database_url, "quarantine")
    assert reply.status_code == 403
    assert "expired" in reply.json()["detail"]
    assert (kept["reason"], kept["endpoint"]) == ("expired", "/click")
    assert token in kept["body"]
    assert rows(database_url, "clicks") == []


async def test_the_quarantine_stops_at_its_cap_and_the_refusals_do_not(open_api: OpenApi, database_url: str) -> None:
    async with open_api(quarantine_max_rows=3) as api:
        replies = [await api.post("/click", json={"click_token": f"a{k}.b", "kind": "seen"}) for k in range(6)]

    assert {reply.status_code for reply in replies} == {403}
    assert len(rows(database_url, "quarantine")) == 3


async def test_tokens_of_the_old_key_are_good_until_it_is_removed(open_api: OpenApi) -> None:
    old, new = "the old key of this service", "the new key of this service"
    async with open_api(click_token_secrets=[old]) as api:
        token = (await api.recommend())["click_token"]
    event = {"click_token": token, "kind": "click", "position": 1}

    async with open_api(click_token_secrets=[new, old]) as api:
        during = await api.post("/click", json=event)
    async with open_api(click_token_secrets=[new]) as api:
        after = await api.post("/click", json={**event, "position": 2})

    assert (during.status_code, after.status_code) == (202, 403)


async def test_pages_of_allowed_origins_may_call_and_others_may_not(open_api: OpenApi) -> None:
    ours, theirs = "https://shop.example", "https://evil.example"
    async with open_api(engine="off", cors_origins=[ours]) as api:
        replies = {
            origin: await api.post("/recommend", json={"task": "hint"}, headers={"origin": origin})
            for origin in (ours, theirs)
        }
        preflights = {
            origin: await api.options(
                "/click",
                headers={
                    "origin": origin,
                    "access-control-request-method": "POST",
                    "access-control-request-headers": "content-type",
                },
            )
            for origin in (ours, theirs)
        }

    assert replies[ours].headers["access-control-allow-origin"] == ours
    assert "access-control-allow-origin" not in replies[theirs].headers
    assert (preflights[ours].status_code, preflights[theirs].status_code) == (200, 400)
    assert preflights[ours].headers["access-control-allow-origin"] == ours
    assert "access-control-allow-origin" not in preflights[theirs].headers
    assert theirs not in preflights[theirs].text


async def test_without_an_allow_list_no_page_of_another_origin_may_call(api: Api) -> None:
    reply = await api.post("/recommend", json={"task": "hint"}, headers={"origin": "https://evil.example"})

    assert not [name for name in reply.headers if name.startswith("access-control")]


async def test_without_a_policy_it_is_not_ready_and_still_answers(open_api: OpenApi, tmp_path: Path) -> None:
    async with open_api(policy=str(tmp_path / "nothing"), wait=False) as api:
        ready = await api.get("/readyz")
        reply = await api.recommend()

    assert (ready.status_code, ready.json()["ready"]) == (503, False)
    assert "no policy" in ready.json()["parts"]["engine"]
    assert reply["degraded_reason"] == "no_policy"


async def test_it_is_ready_only_when_the_engine_is(open_api: OpenApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.engines.scripted.Scripted.start", _start_slowly)
    async with open_api(wait=False) as api:
        during, early = await api.get("/readyz"), await api.recommend()
        await asyncio.sleep(0.6)
        after, late = await api.get("/readyz"), await api.recommend()

    assert (during.status_code, early["degraded_reason"]) == (503, "engine_unavailable")
    assert (after.status_code, late["served_by"]) == (200, "model")


async def test_it_is_not_ready_from_the_moment_it_is_told_to_stop(api: Api) -> None:
    before = await api.get("/readyz")

    api.app.state.runtime.begin_stop()

    after, alive, reply = await api.get("/readyz"), await api.get("/livez"), await api.recommend()
    assert (before.status_code, after.status_code, alive.status_code) == (200, 503, 200)
    assert reply["served_by"] == "model"


async def test_every_received_event_ends_in_one_place_and_the_counters_add_up(api: Api) -> None:
    token = (await api.recommend())["click_token"]
    good = {"click_token": token, "kind": "click", "position": 1}
    before = await _endings(api)
    singles = [good, good, {**good, "click_token": "a.b"}, {**good, "kind": "nothing"}, {**good, "position": 0}]
    batch = [{**good, "position": 2}, good, {**good, "position": 20}, {}, None]

    for event in singles:
        await api.post("/click", json=event)
    await api.post("/click", json={"events": batch})

    after = await _endings(api)
    ended = {name: after[name] - before[name] for name in after}
    assert ended == {"stored": 2, "duplicate": 2, "quarantined": 2, "refused": 4}
    assert sum(ended.values()) == len(singles) + len(batch)


async def test_lists_are_counted_by_task_rung_and_reason(api: Api) -> None:
    await api.recommend()
    await api.recommend(locale="de")

    text = (await api.get("/metrics")).text
    assert 'nextquery_lists_total{reason="",served_by="model",task="suggest"} 1.0' in text
    assert 'nextquery_lists_total{reason="locale_not_supported",served_by="none",task="suggest"} 1.0' in text


async def test_the_version_names_policy_and_engine(api: Api) -> None:
    found = (await api.get("/version")).json()

    assert (found["policy"], found["engine"]) == ("policy-of-tests", "scripted")


@pytest.mark.parametrize(("method", "path", "allowed"), [("GET", "/click", "POST"), ("POST", "/livez", "GET")])
async def test_a_method_that_a_call_does_not_take_is_405_and_names_the_one_it_takes(
    api: Api, method: str, path: str, allowed: str
) -> None:
    reply = await api.request(method, path)

    assert reply.status_code == 405
    assert reply.headers["allow"] == allowed
    assert reply.headers["content-type"] == "application/problem+json"


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory, policy_directory: Path) -> Iterator[ServiceProcess]:
    """A real process with the scripted engine."""
    directory = tmp_path_factory.mktemp("calls")
    with running(directory, until="/readyz", engine="scripted", policy=str(policy_directory)) as started:
        yield started


def test_the_request_id_of_the_reply_is_in_the_log_and_the_query_is_not(process: ServiceProcess) -> None:
    body = {"task": "suggest", "query": _SECRET_QUERY, "answer": _SECRET_QUERY, "session": [_SECRET_QUERY]}

    good = process.post("/recommend", {**body, "explain": True})
    bad = process.post("/recommend", {**body, "unknown": _SECRET_QUERY})
    forged = process.post("/click", {"click_token": "a.b", "kind": "submit", "query": _SECRET_QUERY})

    assert [reply.status_code for reply in (good, bad, forged)] == [200, 422, 403]
    for reply, route in ((good, "/recommend"), (bad, "/recommend"), (forged, "/click")):
        line = process.logged(reply.headers["x-request-id"])
        assert (line["route"], line["status"]) == (route, reply.status_code)
        assert line["duration_ms"] > 0
    assert bad.json()["request_id"] == bad.headers["x-request-id"]
    assert _SECRET_QUERY not in process.log()


def test_a_path_that_is_no_call_is_logged_without_its_name(process: ServiceProcess) -> None:
    reply = httpx.get(f"{process.url}/{uuid.uuid4().hex}/secret-path", timeout=5)

    line = process.logged(reply.headers["x-request-id"])
    assert (reply.status_code, line["route"]) == (404, "other")
    assert "secret-path" not in process.log()


async def _start_slowly(engine: Scripted) -> None:
    await asyncio.sleep(0.3)
    engine._open = True


def _scripted(api: Api) -> Any:
    return api.app.state.runtime.engine._engine


def _signer(data_dir: Path) -> TokenSigner:
    return TokenSigner(load_or_create_secret(data_dir))


def _claims(*, expires_at: int | None = None) -> ClickClaims:
    return ClickClaims(
        impression_id=uuid.uuid4().hex,
        tenant="default",
        task="suggest",
        arm="control",
        policy_version=None,
        ctr_version=None,
        cor_version=None,
        n_shown=3,
        expires_at=expires_at or int(time.time()) + 3600,
    )


async def _endings(api: Api) -> dict[str, float]:
    lines = (await api.get("/metrics")).text.splitlines()
    found = dict.fromkeys(("stored", "duplicate", "quarantined", "refused"), 0.0)
    for line in lines:
        if line.startswith("nextquery_events_total{"):
            found[line.split('"')[1]] = float(line.rsplit(" ", 1)[1])
    return found


def _impression(database_url: str, impression_id: str) -> dict[str, Any]:
    return next(row for row in rows(database_url, "impressions") if row["impression_id"] == impression_id)


def _json(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


def _moment(value: Any) -> datetime:
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _age(value: Any) -> timedelta:
    return datetime.now(UTC) - _moment(value)
