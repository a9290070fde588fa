"""A running service takes up a build by itself, keeps the good one, and says what it serves."""

import asyncio
import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from retrieval.dictionaries.redis import bucket_key
from retrieval.publish import promote, put_into_redis
from service.contract import registry
from service.contract.artifact import MANIFEST, seal
from service.contract.settings import Timeouts
from tests.api.conftest import Api, OpenApi
from tests.redis_server import own_redis
from tests.retrieval.small_world import small_build

QUICK = Timeouts(cor_refresh_s=0.05, cor_s=5)
RICE = {"query": "how to cook rice", "explain": True, "timeout_ms": 9000}


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build of the small log."""
    return small_build(tmp_path_factory.mktemp("cor")).directory


async def parts(api: Api) -> dict[str, Any]:
    return {
        "cor": (await api.get("/version")).json()["cor"],
        "state": (await api.get("/readyz")).json()["parts"]["cor"],
    }


async def until(api: Api, is_so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    for _ in range(600):
        found = await parts(api)
        if is_so(found):
            return found
        await asyncio.sleep(0.02)
    raise AssertionError(found)


async def until_served(api: Api, build: Path) -> None:
    await until(api, lambda found: found["cor"] == build.name)


async def test_a_build_is_taken_up_without_a_restart_and_serves_while_the_model_is_away(
    open_api: OpenApi, build: Path
) -> None:
    async with open_api(engine="off", timeouts=QUICK) as api:
        before = await api.recommend(**RICE)
        state = await parts(api)

        await promote(api.app.state.runtime.database, build)
        await until_served(api, build)
        after = await api.recommend(**RICE)

        assert (before["served_by"], state) == ("none", {"cor": None, "state": "off"})
        assert after["served_by"] == "cor"
        assert after["queries"][0]["text"] == "rice calories"
        assert after["versions"]["cor"] == build.name
        assert after["degraded_reason"] == "engine_unavailable"


async def test_a_damaged_newer_build_is_refused_and_the_good_one_goes_on_serving(
    open_api: OpenApi, build: Path, tmp_path: Path
) -> None:
    async with open_api(engine="off", timeouts=QUICK) as api:
        database = api.app.state.runtime.database
        await promote(database, build)
        await until_served(api, build)
        newer = newer_copy(build, tmp_path)
        await promote(database, newer)
        index = bytearray((newer / "index.faiss").read_bytes())
        index[len(index) // 2] ^= 1
        (newer / "index.faiss").write_bytes(index)

        found = await until(api, lambda found: found["state"] not in ("ready", "off"))

        assert found["cor"] == build.name
        assert "SHA-256 differs" in found["state"]
        assert (await api.get("/readyz")).status_code == 200
        assert (await api.recommend(**RICE))["versions"]["cor"] == build.name


def newer_copy(build: Path, tmp_path: Path) -> Path:
    copy = Path(shutil.copytree(build, tmp_path / "cor-newer"))
    manifest = json.loads((copy / MANIFEST).read_text())
    seal(copy, {**{key: value for key, value in manifest.items() if key != "files"}, "version": "cor-newer"})
    return copy


async def test_the_candidates_stand_in_the_prompt_of_the_model(open_api: OpenApi, build: Path) -> None:
    async with open_api(timeouts=QUICK) as api:
        await promote(api.app.state.runtime.database, build)
        await until_served(api, build)

        reply = await api.recommend(**RICE)

        assert reply["served_by"] == "model"
        assert "Often next: rice calories\n" in reply["explain"]["prompt"]


async def test_a_task_can_be_switched_off(open_api: OpenApi, build: Path) -> None:
    async with open_api(timeouts=QUICK, cor_tasks=["hint"]) as api:
        await promote(api.app.state.runtime.database, build)
        await until_served(api, build)

        reply = await api.recommend(**RICE)

        assert "Often next" not in reply["explain"]["prompt"]
        assert reply["versions"]["cor"] is None


async def test_a_redis_that_is_away_costs_the_co_occurrence_queries_and_no_more(open_api: OpenApi, build: Path) -> None:
    async with open_api(engine="off", timeouts=QUICK, redis_url="redis://127.0.0.1:1/0") as api:
        await promote(api.app.state.runtime.database, build)

        found = await until(api, lambda found: found["state"] not in ("ready", "off"))
        reply = await api.recommend(**RICE)

        assert "NEXTQUERY_REDIS_URL" in found["state"]
        assert reply["served_by"] == "none"
        assert (await registry.champion(api.app.state.runtime.database, "cor", "*")) is not None


@pytest.mark.chaos
@pytest.mark.parametrize("fault", ["killed", "frozen", "flushed", "wrong type"])
async def test_a_redis_that_is_harmed_costs_no_answer_and_at_most_sixty_milliseconds(
    open_api: OpenApi, build: Path, tmp_path: Path, fault: str
) -> None:
    costs_s: list[float] = []
    for _ in range(3):  # a fault costs every time, a busy machine does not
        costs_s.append(await cost_s(open_api, build, tmp_path, fault))
        if costs_s[-1] < 0.06:
            break
    assert costs_s[-1] < 0.06, costs_s


async def cost_s(open_api: OpenApi, build: Path, tmp_path: Path, fault: str) -> float:
    """How much longer the slowest of 60 answers takes than before the fault; every one of them is 200."""
    with own_redis(tmp_path) as (url, process):
        await put_into_redis(build, url, timeout_s=5, keep_old_s=60)
        async with open_api(engine="off", redis_url=url) as api:
            await promote(api.app.state.runtime.database, build)
            await until_served(api, build)
            await timed(api, 5)
            before_s, replies = await timed(api, 60)
            assert {reply["served_by"] for reply in replies} == {"cor"}

            harm(fault, url, process, build.name)
            after_s, replies = await timed(api, 60)

            assert {reply["served_by"] for reply in replies} == {"none"}
            return max(after_s) - max(before_s)


async def timed(api: Api, count: int) -> tuple[list[float], list[dict[str, Any]]]:
    seconds, replies = [], []
    for _ in range(count):
        started = time.perf_counter()
        replies.append(await api.recommend(query="how to cook rice"))
        seconds.append(time.perf_counter() - started)
    return seconds, replies


def harm(fault: str, url: str, process: subprocess.Popen[bytes], version: str) -> None:
    if fault == "killed":
        process.kill()
    elif fault == "frozen":
        process.send_signal(signal.SIGSTOP)
    else:
        with redis.Redis.from_url(url) as client:
            client.flushall()
            if fault == "wrong type":
                client.set(bucket_key(version, 0, 1), "no hash")
