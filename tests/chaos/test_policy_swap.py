"""Policies are promoted and rolled back under traffic on a real vLLM: no reply fails, and the new one is there in time."""

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from service.contract import database, registry
from service.contract.artifact import MANIFEST
from service.contract.policy import load_policy, seal_policy
from service.contract.settings import STARTER, Timeouts
from service.contract.tokenizer import TextFormat
from tests.chaos.ledger import Ledger, Traffic, must_hold, quantile_s
from tests.service_process import ServiceProcess, adapter_policy, rows, running

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.timeout(600),
    pytest.mark.skipif(find_spec("vllm") is None, reason="vllm is not installed"),
]
_DEADLINE_S = 10.0  # so that a slow machine is no fault; the other faults are timed under the usual one
_ADAPTER_S, _MODEL_S = 10.0, 120.0
_STARTER = load_policy(STARTER).version


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """A service with vLLM on the starter policy, ready; the tests of this module follow each other on it."""
    settings = {"engine": "vllm_local", "policy": "champion", "timeouts__recommend_s": str(_DEADLINE_S)}
    with running(tmp_path_factory.mktemp("swap"), until="/readyz", within_s=240, **settings) as started:
        yield started


def test_adapters_are_promoted_and_rolled_back_under_traffic(service: ServiceProcess, tmp_path: Path) -> None:
    adapters = [adapter_policy(tmp_path / f"dpo-{seed}", STARTER, seed=seed) for seed in (1, 2)]
    ledger = Ledger(tmp_path / "ledger")

    with Traffic(service, ledger, people=2) as traffic:
        traffic.wait_for_model(time.monotonic(), within_s=10)
        swaps = [_swap(service, partial(_promote, service, each), each.name) for each in adapters]
        swaps.append(_swap(service, partial(_roll_back, service), "dpo-1"))
        time.sleep(1.0)

    print(f"adapter swaps took {swaps} s; worst reply {quantile_s(traffic.replies, 1.0):.2f} s")
    assert max(swaps) <= _ADAPTER_S
    assert _outcomes(traffic) == {(200, "model", None)}
    assert {reply.policy for reply in traffic.replies} == {_STARTER, "dpo-1", "dpo-2"}
    _each_reply_names_the_policy_that_was_logged(service, traffic)
    must_hold(ledger, service.database_url, at_least=20)


def test_an_adapter_that_vllm_refuses_leaves_the_one_in_service(service: ServiceProcess, tmp_path: Path) -> None:
    before = _version(service)
    wider = adapter_policy(tmp_path / "dpo-rank-64", STARTER, seed=3, rank=64)

    with Traffic(service, Ledger(tmp_path / "ledger"), people=2) as traffic:
        _promote(service, wider)
        state = _until_refused(service)
        time.sleep(4.0)  # it is tried again, and refused again

    assert "LoRA rank 64 is greater" in state
    assert "LoRA rank 64 is greater" in _parts(service)["policy"]
    assert _version(service) == before
    assert {reply.policy for reply in traffic.replies} == {before}
    assert _outcomes(traffic) == {(200, "model", None)}
    _roll_back(service)


def test_a_whole_model_comes_up_on_a_second_engine_while_the_old_one_serves(
    service: ServiceProcess, tmp_path: Path
) -> None:
    model = _copied_starter(tmp_path / "sft-2")
    ledger = Ledger(tmp_path / "ledger")
    engines = _cores(service)

    with Traffic(service, ledger, people=2) as traffic:
        traffic.wait_for_model(time.monotonic(), within_s=10)
        seconds = _swap(service, partial(_promote, service, model), "sft-2", within_s=_MODEL_S)
        time.sleep(20.0)  # the old one is closed

    print(f"model swap took {seconds:.1f} s; worst reply {quantile_s(traffic.replies, 1.0):.2f} s")
    assert _outcomes(traffic) == {(200, "model", None)}
    assert traffic.replies[-1].policy == "sft-2"
    assert _cores(service) == engines
    _each_reply_names_the_policy_that_was_logged(service, traffic)
    must_hold(ledger, service.database_url, at_least=20)


def _outcomes(traffic: Traffic) -> set[tuple[int, str, str | None]]:
    return {(reply.status, reply.served_by, reply.reason) for reply in traffic.replies}


def _swap(service: ServiceProcess, act: Callable[[], None], version: str, *, within_s: float = _ADAPTER_S) -> float:
    """Seconds from before `act` until a reply names `version`."""
    began = time.monotonic()
    act()
    while time.monotonic() < began + within_s:
        reply = service.post("/recommend", {"task": "suggest", "query": "kyoto in autumn"}).json()
        if reply["versions"]["policy"] == version:
            return round(time.monotonic() - began, 2)
        time.sleep(0.1)
    raise AssertionError(
        f"{version} was not in service after {within_s:g} s: {_parts(service)}\n{service.log()[-2000:]}"
    )


def _promote(service: ServiceProcess, directory: Path) -> None:
    async def register_and_promote(opened: AsyncEngine) -> None:
        made = await registry.register(
            opened, version=directory.name, kind="policy", task="*", directory=directory, parent=_STARTER
        )
        await registry.put_in_front(opened, made)

    _in_database(service, register_and_promote)


def _roll_back(service: ServiceProcess) -> None:
    _in_database(service, lambda opened: registry.roll_back(opened, "policy", "*"))


def _in_database(service: ServiceProcess, act: Callable[[AsyncEngine], Awaitable[Any]]) -> None:
    async def run() -> None:
        opened = database.create(service.database_url, Timeouts())
        try:
            await act(opened)
        finally:
            await opened.dispose()

    asyncio.run(run())


def _copied_starter(directory: Path) -> Path:
    """The starter policy as a model of its own: other directory, other version, so it needs another engine."""
    shutil.copytree(STARTER, directory)
    (directory / MANIFEST).unlink()
    starter = load_policy(STARTER)
    text_format = TextFormat(separator="<sep>", separator_is_token=True)
    seal_policy(directory, version=directory.name, text_format=text_format, decoding=starter.decoding)
    return directory


def _until_refused(service: ServiceProcess) -> str:
    began = time.monotonic()
    while time.monotonic() < began + _ADAPTER_S:
        if (state := _parts(service)["policy"]) != "ready":
            return state
        time.sleep(0.1)
    raise AssertionError(f"It was not refused: {_version(service)} is in service.")


def _parts(service: ServiceProcess) -> dict[str, str]:
    return dict(httpx.get(f"{service.url}/readyz", timeout=5).json()["parts"])


def _version(service: ServiceProcess) -> str:
    return str(httpx.get(f"{service.url}/version", timeout=5).json()["policy"])


def _cores(service: ServiceProcess) -> int:
    """How many engines compute: each core has much memory, what else there is has little."""
    return sum(process.memory_info().rss > 400 * 2**20 and process.name() != "python" for process in service.children())


def _each_reply_names_the_policy_that_was_logged(service: ServiceProcess, traffic: Traffic) -> None:
    logged = {row["impression_id"]: row["policy_version"] for row in rows(service.database_url, "impressions")}
    assert {logged[reply.impression_id] == reply.policy for reply in traffic.replies} == {True}
