"""The pages of experiments, models, traffic and events: what they show, what they change, and that no text harms them."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.async_api import expect
from sqlalchemy import insert, update

from service.contract import registry
from service.contract.settings import STARTER
from service.contract.tables import experiments, quarantine
from service.experiments import store
from service.experiments.definitions import Arm, Experiment, Experiments, Holdout
from tests.api.conftest import OpenApi
from tests.browser import chromium, open_page
from tests.contract.test_registry import model
from tests.experiments.test_report import STARTED, _experiment, _run
from tests.service_process import adapter_policy, running

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
SCRIPT = '<img src=x onerror="window.harmed = 1"><script>window.harmed = 1</script>'
PLACES = ("/traffic", "/experiments", "/experiments/warm-1", "/models", "/events")


async def test_an_experiment_is_listed_reported_and_drawn(open_api: OpenApi, engine: Any) -> None:
    await _run(engine, _experiment(), effect=0.5)
    async with open_api(engine="off", wait=False) as api:
        listed, report = (await api.get("/experiments")).text, (await api.get("/experiments/warm-1")).text
        plot, none = await api.get("/experiments/warm-1/days.png"), await api.get("/experiments/warm-9")

    assert 'href="/experiments/warm-1"' in listed
    for text in ("above 0", "control", "latency ms", "holds", '"temperature": 1.0'):
        assert text in report
    assert (plot.headers["content-type"], plot.content[:4]) == ("image/png", b"\x89PNG")
    assert none.status_code == 404


async def test_an_experiment_whose_ratio_is_wrong_shows_no_result(open_api: OpenApi, engine: Any) -> None:
    await _run(engine, _experiment(), effect=0.5, lost=0.3)
    async with open_api(engine="off", wait=False) as api:
        report = (await api.get("/experiments/warm-1")).text

    assert "Units are not in the arms as they should be" in report
    assert "above 0" not in report


async def test_pages_without_anything_say_what_to_do(open_api: OpenApi) -> None:
    async with open_api(engine="off", wait=False) as api:
        pages = {place: (await api.get(place)).text for place in ("/traffic", "/experiments", "/models", "/events")}

    assert "Nobody asked." in pages["/traffic"]
    assert "No experiment yet." in pages["/experiments"]
    assert "Nothing had to be set aside." in pages["/events"]
    assert "What serves" in pages["/models"]


async def test_traffic_and_events_are_shown_as_they_come(open_api: OpenApi) -> None:
    async with open_api() as api:
        reply = await api.recommend(user_id="u-1")
        await api.post("/click", json={"click_token": reply["click_token"], "kind": "click", "position": 1})
        await api.post("/click", json={"click_token": "forged", "kind": "click", "position": 1})
        traffic, events = (await api.get("/traffic")).text, (await api.get("/events")).text

    assert "1 list in the last 10 minutes" in traffic
    assert "100.00%" in traffic
    assert "data-live" in traffic
    assert "stored" in events
    assert "malformed" in events or "forged" in events


async def test_a_model_is_promoted_and_rolled_back_by_the_calls_of_the_page(
    open_api: OpenApi, engine: Any, tmp_path: Path
) -> None:
    for name in ("v1", "v2"):
        await registry.register(engine, version=name, kind="ctr", task="*", directory=model(tmp_path, name))
    async with open_api(engine="off", wait=False) as api:
        first = await api.post("/models/promote", json={"version": "v1"})
        second = await api.post("/models/promote", json={"version": "v2"})
        back = await api.post("/models/rollback", json={"kind": "ctr", "task": "*"})
        unknown = await api.post("/models/promote", json={"version": "v9"})
        wrong = await api.post("/models/promote", json={"version": "v1", "task": "no task"})
        page = (await api.get("/models")).text

    assert [reply.json()["version"] for reply in (first, second, back)] == ["v1", "v2", "v1"]
    assert (unknown.status_code, wrong.status_code) == (409, 422)
    assert "v1 will serve everybody" not in page
    assert "v2 will serve everybody as ctr" in page


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "text/plain"},
        {"content-type": "application/json", "sec-fetch-site": "cross-site"},
        {"content-type": "application/json", "sec-fetch-site": "same-site"},
    ],
)
async def test_no_other_site_can_change_what_serves(open_api: OpenApi, headers: dict[str, str]) -> None:
    async with open_api(engine="off", wait=False) as api:
        for call in ("/models/promote", "/models/rollback"):
            reply = await api.post(call, content=json.dumps({"version": "v1"}), headers=headers)

            assert reply.status_code == 403


async def test_a_service_beyond_loopback_changes_nothing_unless_it_is_told_so(open_api: OpenApi) -> None:
    async with open_api(engine="off", wait=False, host="0.0.0.0") as api:
        refused, page = await api.post("/models/promote", json={"version": "v1"}), (await api.get("/models")).text
    async with open_api(engine="off", wait=False, host="0.0.0.0", console_changes=True) as api:
        allowed = await api.post("/models/promote", json={"version": "v1"})

    assert (refused.status_code, allowed.status_code) == (403, 409)
    assert "Nothing can be changed here" in page


@pytest.mark.timeout(180)
async def test_pages_in_a_browser_harm_nobody_and_ask_before_they_change(
    engine: Any, tmp_path: Path, database_url: str
) -> None:
    arms = [Arm(name="control", weight=0.5), Arm(name="warm", weight=0.5, temperature=1.0)]
    await _run(engine, Experiment(id="warm-1", lift=0.1, arms=arms), effect=0.3)
    await store.end(engine, "warm-1", SCRIPT)
    await store.apply(engine, Experiments(holdout=Holdout(share=0.02)))
    hostile = {"id": "q1", "at": STARTED, "endpoint": "/click", "reason": SCRIPT, "body": SCRIPT}
    async with engine.begin() as connection:
        await connection.execute(insert(quarantine), hostile)
        await connection.execute(update(experiments).values(started_at=STARTED))
    data = tmp_path / "data"
    adapter = adapter_policy(tmp_path / "dpo-1", STARTER)
    await registry.register(
        engine, version="dpo-1", kind="policy", task="*", directory=adapter, metrics={SCRIPT: SCRIPT}
    )
    settings = {"engine": "scripted", "policy": "champion", "database_url": database_url}
    with running(data, until="/readyz", **settings) as service:
        async with httpx.AsyncClient() as client:
            await client.post(service.url + "/recommend", json={"task": "suggest", "query": SCRIPT, "user_id": "u-1"})
        async with chromium() as browser:
            for place in PLACES:
                async with open_page(browser, service.url + place, dark=place == "/models") as (page, complaints):
                    await expect(page.locator("h1")).to_be_visible()
                    assert await page.evaluate("window.harmed") is None
                    assert complaints == []
                    await page.screenshot(path=tmp_path / f"{place.strip('/').replace('/', '-')}.png", full_page=True)
                    await page.set_viewport_size({"width": 400, "height": 800})
                    assert await page.evaluate("document.documentElement.scrollWidth") <= 400
                    await page.screenshot(path=tmp_path / f"{place.strip('/').replace('/', '-')}-400.png")
            async with open_page(browser, service.url + "/experiments/warm-1", width=400) as (page, _):
                await expect(page.get_by_text("At all times within").first).to_be_visible()
            async with open_page(browser, service.url + "/models") as (page, complaints):
                await page.get_by_role("button", name="Promote").click()
                await expect(page.locator("#question")).to_contain_text("dpo-1 will serve everybody")
                await page.get_by_role("button", name="Leave it").click()
                assert (await registry.champion(engine, "policy", "*")).version != "dpo-1"  # type: ignore[union-attr]
                await page.get_by_role("button", name="Promote").click()
                await page.locator("#confirmed").click()
                await expect(page.get_by_role("button", name="Roll back")).to_be_visible()
                assert (await registry.champion(engine, "policy", "*")).version == "dpo-1"  # type: ignore[union-attr]
                assert complaints == []
