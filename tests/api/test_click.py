"""POST /click end to end, on both databases: what is acknowledged, stored, quarantined and counted.

It knows nothing about hostile input (test_hostile) or size (test_limits).
"""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from service.contract.settings import Timeouts
from service.events.click_token import TokenSigner, load_or_create_secret
from tests.api.conftest import Api, OpenApi, age, claims, moment
from tests.service_process import rows


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
    assert age(row["at"]) < timedelta(seconds=30)
    assert moment(row["client_at"]) == datetime(2026, 1, 2, 1, 4, 5, tzinfo=UTC)


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
    events = [{"click_token": signer.sign(claims()), "kind": "click", "position": 1} for _ in range(1000)]

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
    shown = claims()

    reply = await api.post(
        "/click", json={"click_token": _signer(tmp_path).sign(shown), "kind": "click", "position": 1}
    )

    assert reply.status_code == 202
    assert rows(database_url, "impressions") == []
    assert rows(database_url, "clicks")[0]["impression_id"] == shown.impression_id


async def test_an_expired_click_is_403_quarantined_and_not_stored(api: Api, tmp_path: Path, database_url: str) -> None:
    token = _signer(tmp_path).sign(claims(expires_at=int(time.time()) - 1))

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


def _signer(data_dir: Path) -> TokenSigner:
    return TokenSigner(load_or_create_secret(data_dir))


async def _endings(api: Api) -> dict[str, float]:
    lines = (await api.get("/metrics")).text.splitlines()
    found = dict.fromkeys(("stored", "duplicate", "quarantined", "refused"), 0.0)
    for line in lines:
        if line.startswith("nextquery_events_total{"):
            found[line.split('"')[1]] = float(line.rsplit(" ", 1)[1])
    return found
