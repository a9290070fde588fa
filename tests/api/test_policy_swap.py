"""A running service takes up a promoted policy by itself: no request fails, and each reply is one version's."""

import asyncio
import contextlib
import json
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from service.contract import registry
from service.contract.artifact import MANIFEST
from service.contract.engine import Adapter, Completion, Sampling
from service.contract.errors import EngineError, EngineUnavailable
from service.contract.policy import load_policy
from service.contract.settings import STARTER, Timeouts
from service.contract.tables import champions
from service.engines.scripted import Scripted
from tests.api.conftest import Api, OpenApi
from tests.service_process import adapter_policy, scripted_policy

QUICK = Timeouts(policy_refresh_s=0.05, recommend_s=2, recommend_max_s=2)
SWAP_S = 5.0
STARTER_VERSION = load_policy(STARTER).version


async def register(api: Api, directory: Path, *, task: str = "*") -> None:
    database = api.app.state.runtime.database
    await registry.register(database, version=directory.name, kind="policy", task=task, directory=directory)


async def promote(api: Api, directory: Path, *, task: str = "*") -> None:
    await register(api, directory, task=task)
    model = await registry.show(api.app.state.runtime.database, directory.name)
    await registry.put_in_front(api.app.state.runtime.database, model)


async def force(api: Api, version: str) -> None:
    """Make it champion behind the registry's back, which would notice the damage; the service must, too."""
    async with api.app.state.runtime.database.begin() as connection:
        await connection.execute(update(champions).values(version=version).where(champions.c.kind == "policy"))


async def versions(api: Api) -> dict[str, str]:
    return dict((await api.get("/version")).json()["policies"])


async def parts(api: Api) -> dict[str, str]:
    return dict((await api.get("/readyz")).json()["parts"])


async def until_served(api: Api, version: str, *, task: str = "*") -> float:
    began = time.monotonic()
    async with asyncio.timeout(SWAP_S):
        while (await versions(api)).get(task) != version:
            await asyncio.sleep(0.01)
    return time.monotonic() - began


async def until_refused(api: Api) -> str:
    async with asyncio.timeout(SWAP_S):
        while (state := (await parts(api))["policy"]) in ("ready", "off"):
            await asyncio.sleep(0.01)
    return state


@contextlib.asynccontextmanager
async def traffic(api: Api, *, people: int = 4) -> AsyncIterator[list[dict[str, Any]]]:
    """Replies of people who ask over and over; each status is checked, an exception ends the test."""
    replies: list[dict[str, Any]] = []
    stop = asyncio.Event()

    async def ask(number: int) -> None:
        while not stop.is_set():
            replies.append(await api.recommend(query=f"kyoto {number} {len(replies)}"))
            await asyncio.sleep(0.005)

    asking = asyncio.gather(*map(ask, range(people)))
    try:
        yield replies
    finally:
        stop.set()
        await asking


def written(replies: list[dict[str, Any]]) -> dict[str, set[tuple[str, ...]]]:
    """The lists that were shown, by the version that the reply names."""
    shown: dict[str, set[tuple[str, ...]]] = {}
    for reply in replies:
        shown.setdefault(reply["versions"]["policy"], set()).add(tuple(query["text"] for query in reply["queries"]))
    return shown


def engine_of(api: Api, task: str = "suggest") -> Scripted:
    engine = api.app.state.runtime.policies.of(task).engine._engine
    assert isinstance(engine, Scripted)
    return engine


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_promoted_and_rolled_back_in_traffic_no_request_fails_and_each_reply_is_one_versions(
    open_api: OpenApi, tmp_path: Path
) -> None:
    first, second = adapter_policy(tmp_path / "dpo-1", STARTER), adapter_policy(tmp_path / "dpo-2", STARTER)
    async with open_api(policy="champion", timeouts=QUICK) as api:
        engine = engine_of(api)
        engine.delay_s = 0.02  # so that requests are in flight at every swap
        async with traffic(api) as replies:
            for directory in (first, second):
                await promote(api, directory)
                await until_served(api, directory.name)
                await asyncio.sleep(0.1)
            await registry.roll_back(api.app.state.runtime.database, "policy", "*")
            await until_served(api, "dpo-1")
            await asyncio.sleep(0.1)
            before = len(replies)
            await asyncio.sleep(0.1)
            last = {reply["versions"]["policy"] for reply in replies[before + 4 :]}

        shown = written(replies)
        assert {reply["served_by"] for reply in replies} == {"model"}
        assert shown.keys() == {STARTER_VERSION, "dpo-1", "dpo-2"}
        # The scripted engine writes the same list for the same adapter, so a list under a wrong name would be a second.
        assert {version: len(lists) for version, lists in shown.items()} == dict.fromkeys(shown, 1)
        assert len(set.union(*shown.values())) == 3
        assert last == {"dpo-1"}
        assert engine_of(api) is engine  # adapters of one base need no other


async def test_an_old_adapter_is_dropped_when_its_requests_are_done(open_api: OpenApi, tmp_path: Path) -> None:
    quick = QUICK.model_copy(update={"recommend_s": 0.2, "recommend_max_s": 0.2})
    async with open_api(policy="champion", timeouts=quick) as api:
        for name in ("dpo-1", "dpo-2"):
            await promote(api, adapter_policy(tmp_path / name, STARTER))
            await until_served(api, name)
        at_once = {adapter.name for adapter in engine_of(api).adapters}
        await asyncio.sleep(0.6)

        assert at_once == {"dpo-1", "dpo-2"}
        assert {adapter.name for adapter in engine_of(api).adapters} == {"dpo-2"}


def _flip(directory: Path) -> None:
    weights = directory / "tokenizer.json"
    weights.write_bytes(weights.read_bytes() + b" ")


def _fingerprint(directory: Path) -> None:
    manifest = json.loads((directory / MANIFEST).read_text())
    (directory / MANIFEST).write_text(json.dumps({**manifest, "prompts": {"hint": "0123456789abcdef"}}))


def _lose_base(directory: Path) -> None:
    shutil.rmtree(directory.parent / "sft-9")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [(_flip, "SHA-256 differs"), (_fingerprint, "was trained on prompt"), (_lose_base, "neither beside it nor")],
    ids=["damaged", "prompt", "base"],
)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_policy_that_cannot_be_trusted_never_replaces_the_one_in_service(
    open_api: OpenApi, tmp_path: Path, spoil: Any, said: str
) -> None:
    newer = adapter_policy(tmp_path / "dpo-9", scripted_policy(tmp_path / "sft-9", "sft-9"))
    async with open_api(policy="champion", timeouts=QUICK) as api:
        await register(api, newer)
        spoil(newer)
        async with traffic(api) as replies:
            await force(api, "dpo-9")
            state = await until_refused(api)
            await asyncio.sleep(0.1)

        assert said in state
        assert set(written(replies)) == {STARTER_VERSION}
        assert {reply["served_by"] for reply in replies} == {"model"}
        assert (await api.get("/readyz")).status_code == 200
        assert len(api.app.state.runtime.engines.engines) == 1  # nothing was loaded for it


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_policy_that_was_restored_is_taken_up_then(open_api: OpenApi, tmp_path: Path) -> None:
    newer = adapter_policy(tmp_path / "dpo-9", STARTER)
    whole = (newer / "tokenizer.json").read_bytes()
    async with open_api(policy="champion", timeouts=QUICK) as api:
        await register(api, newer)
        _flip(newer)
        await force(api, "dpo-9")
        await until_refused(api)

        (newer / "tokenizer.json").write_bytes(whole)
        await until_served(api, "dpo-9")

        assert (await parts(api))["policy"] == "ready"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_an_adapter_that_the_engine_cannot_load_is_never_in_service(
    open_api: OpenApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Scripted, "generate", _refusing("dpo-1", Scripted.generate))
    async with open_api(policy="champion", timeouts=QUICK) as api:
        async with traffic(api) as replies:
            await promote(api, adapter_policy(tmp_path / "dpo-1", STARTER))
            state = await until_refused(api)

        assert "dpo-1 cannot be loaded" in state
        assert set(written(replies)) == {STARTER_VERSION}
        assert {reply["served_by"] for reply in replies} == {"model"}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_service_that_starts_with_an_adapter_that_cannot_be_loaded_is_not_ready_and_says_why(
    open_api: OpenApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_api(policy="champion", timeouts=QUICK) as api:
        await promote(api, adapter_policy(tmp_path / "dpo-1", STARTER))
        await until_served(api, "dpo-1")
    monkeypatch.setattr(Scripted, "generate", _refusing("dpo-1", Scripted.generate))

    async with open_api(policy="champion", timeouts=QUICK, wait=False) as api:
        async with asyncio.timeout(SWAP_S):
            while "cannot be loaded" not in (await parts(api))["engine"]:
                await asyncio.sleep(0.01)
        ready = await api.get("/readyz")
        await registry.roll_back(api.app.state.runtime.database, "policy", "*")
        await until_served(api, STARTER_VERSION)
        reply = await api.recommend()

        assert ready.status_code == 503
        assert (await api.get("/readyz")).status_code == 200
        assert (reply["served_by"], reply["versions"]["policy"]) == ("model", STARTER_VERSION)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_whole_model_comes_up_beside_the_old_one_which_is_closed_afterwards(
    open_api: OpenApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = scripted_policy(tmp_path / "sft-2", "sft-2")
    quick = QUICK.model_copy(update={"recommend_s": 1, "recommend_max_s": 1})
    async with open_api(policy="champion", timeouts=quick) as api:
        old, release = engine_of(api), asyncio.Event()
        monkeypatch.setattr(Scripted, "start", _waiting_for(release, Scripted.start))
        async with traffic(api) as replies:
            await promote(api, model)
            await asyncio.sleep(0.3)
            meanwhile, ready, engines = (
                set(written(replies)),
                await parts(api),
                len(api.app.state.runtime.engines.engines),
            )
            release.set()
            await until_served(api, "sft-2")
            open_then = old.closes
            await asyncio.sleep(0.3)
        async with asyncio.timeout(5):
            while not old.closes:
                await asyncio.sleep(0.01)

        assert (meanwhile, ready["engine"], engines) == ({STARTER_VERSION}, "ready", 2)
        assert set(written(replies)) == {STARTER_VERSION, "sft-2"}
        assert {reply["served_by"] for reply in replies} == {"model"}
        assert open_then == 0
        assert engine_of(api) is not old
        assert len(api.app.state.runtime.engines.engines) == 1


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_whole_model_that_does_not_start_leaves_the_old_engine_alone(
    open_api: OpenApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_api(policy="champion", timeouts=QUICK) as api:
        old = engine_of(api)
        monkeypatch.setattr(Scripted, "start", _failing)
        async with traffic(api) as replies:
            await promote(api, scripted_policy(tmp_path / "sft-2", "sft-2"))
            state = await until_refused(api)

        assert "not enough memory" in state
        assert ((await parts(api))["engine"], engine_of(api), old.closes) == ("ready", old, 0)
        assert {reply["served_by"] for reply in replies} == {"model"}
        assert len(api.app.state.runtime.engines.engines) == 1


async def test_a_task_with_a_policy_of_its_own_is_written_by_it_and_the_others_are_not(
    open_api: OpenApi, tmp_path: Path
) -> None:
    async with open_api(policy="champion", timeouts=QUICK) as api:
        await promote(api, adapter_policy(tmp_path / "own", STARTER), task="hint")
        await promote(api, adapter_policy(tmp_path / "all", STARTER))
        await until_served(api, "own", task="hint")
        await until_served(api, "all")

        replies = [await api.recommend(task=task, session=["kyoto"]) for task in ("hint", "suggest", "snippets")]

        assert [reply["versions"]["policy"] for reply in replies] == ["own", "all", "all"]
        assert await versions(api) == {"*": "all", "hint": "own"}
        assert (await api.get("/version")).json()["policy"] == "all"
        assert engine_of(api, "hint") is engine_of(api)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_task_whose_policy_has_another_base_gets_a_second_engine(open_api: OpenApi, tmp_path: Path) -> None:
    async with open_api(policy="champion", timeouts=QUICK) as api:
        await promote(api, scripted_policy(tmp_path / "own", "own"), task="hint")
        await until_served(api, "own", task="hint")

        replies = [await api.recommend(task=task, session=["kyoto"]) for task in ("hint", "suggest")]

        assert [reply["versions"]["policy"] for reply in replies] == ["own", STARTER_VERSION]
        assert {reply["served_by"] for reply in replies} == {"model"}
        assert engine_of(api, "hint") is not engine_of(api)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_policy_that_the_settings_name_stays_whoever_is_champion(
    open_api: OpenApi, tmp_path: Path, policy_directory: Path
) -> None:
    async with open_api(policy=str(policy_directory), timeouts=QUICK) as api:
        await promote(api, adapter_policy(tmp_path / "dpo-1", STARTER))
        await asyncio.sleep(0.3)

        assert await versions(api) == {"*": "policy-of-tests"}


def _refusing(name: str, generate: Any) -> Any:
    async def refusing(
        engine: Scripted, request_id: str, prompt: Any, sampling: Sampling, adapter: Adapter | None = None
    ) -> list[Completion]:
        if adapter and adapter.name == name:
            raise EngineError(f"The adapter {name} cannot be loaded.")
        return list(await generate(engine, request_id, prompt, sampling, adapter))

    return refusing


def _waiting_for(release: asyncio.Event, start: Any) -> Any:
    async def waiting(engine: Scripted) -> None:
        await release.wait()
        await start(engine)

    return waiting


async def _failing(engine: Scripted) -> None:
    raise EngineUnavailable("There is not enough memory for the model.")
