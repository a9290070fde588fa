"""What surrounds the calls: origins, readiness, metrics, versions and the log.

It knows nothing about lists or clicks themselves.
"""

import asyncio
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.engines.scripted import Scripted
from tests.api.conftest import Api, OpenApi
from tests.service_process import ServiceProcess, running

_SECRET_QUERY = "a query that nobody may read in a log"


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
