"""A running service takes up a click predictor by itself, keeps the good one, and says which one chose."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from service.contract import registry
from service.contract.settings import Timeouts
from service.contract.tables import champions, impressions
from service.events.click_token import TokenSigner, load_or_create_secret
from tests.api.conftest import Api, OpenApi
from tests.ctr.tiny_predictor import tiny_predictor

QUICK = Timeouts(ctr_refresh_s=0.05, ctr_s=5)
PATIENT = {"explain": True, "timeout_ms": 9000}


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny predictor for every task."""
    return tiny_predictor(tmp_path_factory.mktemp("ctr") / "ctr-1", version="ctr-1")


async def promote(api: Api, directory: Path, *, task: str = "*", kind: str = "ctr") -> None:
    database = api.app.state.runtime.database
    await registry.register(database, version=directory.name, kind=kind, task=task, directory=directory)
    present = await registry.champion(database, kind, task)
    revision = present.revision if present and present.task == task else 0
    await registry.promote(database, kind, task, directory.name, expected_revision=revision)


async def until(api: Api, is_so: Callable[[dict[str, str], str], bool]) -> tuple[dict[str, str], str]:
    for _ in range(600):
        versions = (await api.get("/version")).json()["ctr"]
        state = (await api.get("/readyz")).json()["parts"]["ctr"]
        if is_so(versions, state):
            return versions, state
        await asyncio.sleep(0.02)
    raise AssertionError((versions, state))


async def until_served(api: Api, **by_task: str) -> None:
    await until(api, lambda versions, _: versions == (by_task or {"*": "ctr-1"}))


def damage(weights: Path) -> None:
    flipped = bytearray(weights.read_bytes())
    flipped[len(flipped) // 2] ^= 1
    weights.write_bytes(flipped)


async def rows(api: Api) -> dict[str, Any]:
    async with api.app.state.runtime.database.connect() as connection:
        found = (await connection.execute(select(impressions))).mappings()
        return {row["impression_id"]: row for row in found}


async def test_a_predictor_is_taken_up_without_a_restart_and_chooses_among_several_lists(
    open_api: OpenApi, predictor: Path, tmp_path: Path
) -> None:
    async with open_api(timeouts=QUICK, ctr_use="best_of", ctr_best_of=3) as api:
        before = await api.recommend(**PATIENT)
        state = await until(api, lambda *_: True)

        await promote(api, predictor)
        await until_served(api)
        after = await api.recommend(**PATIENT)

        row = (await rows(api))[after["impression_id"]]
        claims = TokenSigner(load_or_create_secret(tmp_path)).verify(after["click_token"])
        assert (before["versions"]["ctr"], state) == (None, ({}, "off"))
        assert (before["explain"]["ctr_problem"], before["explain"]["sampling"]["n"]) == ("no_predictor", 1)
        assert after["versions"]["ctr"] == row["ctr_version"] == claims.ctr_version == "ctr-1"
        assert (after["explain"]["ctr_problem"], after["explain"]["sampling"]["n"]) == (None, 3)
        assert after["timings_ms"]["generate"] <= after["timings_ms"]["score"] <= after["timings_ms"]["total"]
        assert [query["score"] for query in after["queries"]] == [c["score"] for c in row["candidates"]]
        assert all(0 < query["score"] < 1 for query in after["queries"])


async def test_a_list_is_reordered_and_its_propensities_are_stored(open_api: OpenApi, predictor: Path) -> None:
    async with open_api(timeouts=QUICK, ctr_use="reorder", ctr_explore_share=0.3) as api:
        await promote(api, predictor)
        await until_served(api)

        replies = [await api.recommend(**PATIENT) for _ in range(40)]

        stored = await rows(api)
        known = [c["propensity"] for row in stored.values() for c in row["candidates"]]
        assert {round(one, 6) for one in known} == {0.8, 0.1}  # .7 + .3 / 3, and .3 / 3
        assert {reply["served_by"] for reply in replies} == {"model"}
        assert all(query["score"] for reply in replies for query in reply["queries"])


async def test_a_damaged_newer_predictor_is_refused_and_the_good_one_goes_on_choosing(
    open_api: OpenApi, predictor: Path, tmp_path: Path
) -> None:
    async with open_api(timeouts=QUICK, ctr_use="best_of") as api:
        await promote(api, predictor)
        await until_served(api)
        newer = tiny_predictor(tmp_path / "ctr-2", version="ctr-2", seed=2)
        database = api.app.state.runtime.database
        await registry.register(database, version="ctr-2", kind="ctr", task="*", directory=newer)
        damage(newer / "model.safetensors")
        async with database.begin() as connection:  # `promote` would notice, and the service must, too
            await connection.execute(update(champions).values(version="ctr-2").where(champions.c.kind == "ctr"))

        versions, state = await until(api, lambda _, state: state not in ("ready", "off"))

        assert versions == {"*": "ctr-1"}
        assert "SHA-256 differs" in state
        assert (await api.get("/readyz")).status_code == 200
        assert (await api.recommend(**PATIENT))["versions"]["ctr"] == "ctr-1"


@pytest.mark.parametrize(
    ("made", "said"),
    [({"kind": "cor"}, "is no click predictor"), ({"task": "hint"}, "cannot score for 'suggest'")],
    ids=["kind", "task"],
)
async def test_a_directory_of_the_wrong_kind_or_task_never_chooses(
    open_api: OpenApi, predictor: Path, tmp_path: Path, made: dict[str, str], said: str
) -> None:
    async with open_api(timeouts=QUICK, ctr_use="best_of") as api:
        await promote(api, predictor)
        await until_served(api)

        await promote(api, tiny_predictor(tmp_path / "wrong", version="wrong", **made), task="suggest")
        versions, state = await until(api, lambda _, state: state not in ("ready", "off"))

        assert versions == {"*": "ctr-1"}
        assert said in state
        assert (await api.recommend(**PATIENT))["versions"]["ctr"] == "ctr-1"


@pytest.mark.parametrize("use", ["best_of", "reorder"])
async def test_a_predictor_that_is_too_slow_costs_the_scores_and_the_reply_says_so(
    open_api: OpenApi, predictor: Path, use: str
) -> None:
    async with open_api(timeouts=Timeouts(ctr_refresh_s=0.05, ctr_s=1e-6), ctr_use=use) as api:
        await promote(api, predictor)
        await until_served(api)

        reply = await api.recommend(**PATIENT)

        assert (reply["served_by"], reply["degraded_reason"], reply["recorded"]) == ("model", None, True)
        assert (reply["versions"]["ctr"], reply["explain"]["ctr_problem"]) == (None, "late")
        assert {query["score"] for query in reply["queries"]} == {None}


async def test_a_task_with_a_predictor_of_its_own_is_scored_by_it(
    open_api: OpenApi, predictor: Path, tmp_path: Path
) -> None:
    async with open_api(timeouts=QUICK, ctr_use="best_of") as api:
        await promote(api, predictor)
        await promote(api, tiny_predictor(tmp_path / "own", version="own", task="hint"), task="hint")
        await until_served(api, **{"*": "ctr-1", "hint": "own"})

        suggest = await api.recommend(**PATIENT)
        hint = await api.recommend(task="hint", **PATIENT)

        assert (suggest["versions"]["ctr"], hint["versions"]["ctr"]) == ("ctr-1", "own")


async def test_switched_off_a_champion_is_not_even_looked_at(open_api: OpenApi, predictor: Path) -> None:
    async with open_api(timeouts=QUICK) as api:
        await promote(api, predictor)
        await asyncio.sleep(0.2)

        reply = await api.recommend(**PATIENT)

        assert await until(api, lambda *_: True) == ({}, "off")
        assert (reply["versions"]["ctr"], reply["explain"]["ctr_problem"]) == (None, None)
        assert {query["score"] for query in reply["queries"]} == {None}
        assert "score" not in reply["timings_ms"]
