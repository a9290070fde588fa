"""A running service follows the experiment file: each person gets the arm that the hash says, and the log says which."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from service.contract.settings import STARTER, Timeouts
from service.contract.tables import clicks, impressions
from service.experiments.assignment import Assigner
from service.experiments.definitions import read_experiments
from tests.api.conftest import Api, OpenApi
from tests.api.test_policy_swap import STARTER_VERSION, _flip, engine_of, register
from tests.service_process import adapter_policy

QUICK = Timeouts(
    policy_refresh_s=0.05, experiments_refresh_s=0.05, ctr_refresh_s=0.05, recommend_s=2, recommend_max_s=2
)
FILE = """
experiments:
  - id: dpo
    tasks: [suggest]
    arms: [{name: control, weight: 0.5}, {name: new, weight: 0.5, policy: dpo-1}]
  - id: warm
    unit: session
    arms: [{name: control, weight: 0.5}, {name: warm, weight: 0.5, temperature: 1.25, top_p: 0.5}]
"""
WITHIN_S = 10.0


def _write(tmp_path: Path, text: str) -> None:
    (tmp_path / "experiments.yaml").write_text(text)


async def _until(api: Api, condition: Any) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not condition(api.app.state.runtime):
            await asyncio.sleep(0.01)


def _serves(version: str) -> Any:
    return lambda runtime: (served := runtime.policies.of("suggest", version)) and served.version == version


async def _logged(api: Api) -> dict[str, Any]:
    async with api.app.state.runtime.database.connect() as connection:
        return {row.impression_id: row for row in await connection.execute(select(impressions))}


async def test_each_person_gets_their_arm_and_the_log_and_the_click_say_which(
    open_api: OpenApi, tmp_path: Path
) -> None:
    async with open_api(policy="champion", timeouts=QUICK) as api:
        await register(api, adapter_policy(tmp_path / "dpo-1", STARTER))
        _write(tmp_path, FILE)
        await _until(api, _serves("dpo-1"))
        replies = {k: await api.recommend(user_id=f"u-{k % 20}", session_id=f"s-{k % 7}") for k in range(40)}
        event = {"click_token": replies[0]["click_token"], "kind": "click", "position": 1}
        assert (await api.post("/click", json=event)).status_code == 202
        logged = await _logged(api)
        async with api.app.state.runtime.database.connect() as connection:
            (click,) = await connection.execute(select(clicks))

    assigner = Assigner(read_experiments(tmp_path / "experiments.yaml"))
    seen = set()
    for k, reply in replies.items():
        row = logged[reply["impression_id"]]
        units = {"user": f"u-{k % 20}", "session": f"s-{k % 7}", "request": reply["impression_id"]}
        expected = assigner.assign("suggest", units)
        seen.add(row.arm)
        assert row.arm == expected.arm
        assert reply["versions"]["policy"] == row.policy_version == expected.changes.get("policy", STARTER_VERSION)
        assert (row.sampling["temperature"] == 1.25) == (row.sampling["top_p"] == 0.5) == ("warm=warm" in row.arm)
        assert reply["degraded_reason"] is None
    assert len(seen) == 4
    assert click.arm == logged[replies[0]["impression_id"]].arm


async def test_who_names_no_person_is_in_no_experiment_of_persons(open_api: OpenApi, tmp_path: Path) -> None:
    _write(tmp_path, FILE.split("  - id: warm")[0].replace("policy: dpo-1", "temperature: 1.25"))
    async with open_api(policy="champion", timeouts=QUICK) as api:
        await api.recommend()
        (row,) = (await _logged(api)).values()

    assert row.arm == "control"


async def test_an_arm_whose_policy_is_damaged_is_served_as_everybody_and_says_so(
    open_api: OpenApi, tmp_path: Path
) -> None:
    async with open_api(policy="champion", timeouts=QUICK) as api:
        await register(api, adapter_policy(tmp_path / "dpo-1", STARTER))
        _flip(tmp_path / "dpo-1")
        _write(tmp_path, FILE)
        await _until(api, lambda runtime: runtime.policies.problem)
        replies = [await api.recommend(user_id=f"u-{k}") for k in range(10)]
        logged = await _logged(api)
        parts = (await api.get("/readyz")).json()["parts"]

    reasons = {(logged[each["impression_id"]].arm, each["degraded_reason"]) for each in replies}
    assert reasons == {("dpo=control", None), ("dpo=new", "policy_of_arm_away")}
    assert {each["versions"]["policy"] for each in replies} == {STARTER_VERSION}
    assert "SHA-256 differs" in parts["policy"]


async def test_an_experiment_that_ends_gives_its_adapter_back(open_api: OpenApi, tmp_path: Path) -> None:
    async with open_api(policy="champion", timeouts=QUICK) as api:
        await register(api, adapter_policy(tmp_path / "dpo-1", STARTER))
        _write(tmp_path, FILE)
        await _until(api, _serves("dpo-1"))
        loaded = {adapter.name for adapter in engine_of(api).adapters}
        _write(tmp_path, "experiments: []")
        async with asyncio.timeout(WITHIN_S):
            while engine_of(api).adapters:
                await asyncio.sleep(0.05)
        reply = await api.recommend(user_id="u-1")

        assert loaded == {"dpo-1"}
        assert reply["versions"]["policy"] == STARTER_VERSION


async def test_a_refused_file_is_told_by_the_health_page_and_changes_nothing(open_api: OpenApi, tmp_path: Path) -> None:
    text = FILE.replace("policy: dpo-1", "temperature: 1.1").replace(
        "temperature: 1.25, top_p: 0.5", "deadline_ms: 400"
    )
    _write(tmp_path, text)
    async with open_api(policy="champion", timeouts=QUICK) as api:
        before = (await api.get("/readyz")).json()["parts"]["experiments"]
        _write(tmp_path, text.replace("weight: 0.5", "weight: 0.4"))
        await _until(api, lambda runtime: runtime.experiments.problem)
        ready = await api.get("/readyz")
        await api.recommend(user_id="u-1")
        (row,) = (await _logged(api)).values()

    assert before == "ready"
    assert ready.status_code == 200  # it serves, by the last good file
    assert "come to 0.8" in ready.json()["parts"]["experiments"]
    assert row.arm.startswith("dpo=")


@pytest.mark.alone
@pytest.mark.parametrize(("asked_ms", "served_by"), [(None, "none"), (450, "model")])
async def test_an_arm_sets_the_deadline_where_the_product_does_not(
    open_api: OpenApi, tmp_path: Path, asked_ms: int | None, served_by: str
) -> None:
    _write(
        tmp_path,
        "experiments: [{id: a, arms: [{name: x, weight: 0.5, deadline_ms: 30}, {name: y, weight: 0.5, deadline_ms: 30}]}]",
    )
    async with open_api(policy="champion", timeouts=QUICK) as api:
        engine_of(api).delay_s = 0.15
        reply = await api.recommend(user_id="u-1", timeout_ms=asked_ms)

    assert reply["served_by"] == served_by, json.dumps(reply)
