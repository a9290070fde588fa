"""The engine is killed, frozen or slow under traffic, and clients leave: every reply is a list, and on time."""

import asyncio
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import uvicorn

from service.api.server import ImpatientProtocol
from service.app import create_app
from service.contract import database
from service.contract.settings import Settings, Timeouts
from tests.chaos.ledger import Ledger, Traffic, must_hold, quantile_s
from tests.service_process import ServiceProcess, exchange, free_port, http, language_model, running, scripted_policy

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]

_DEADLINE_S = 2.0
_GRACE_S = 0.05
_BACK_S = 30
_ABORT_S = 0.1


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """A service with vLLM, ready; the faults of this module follow each other on it."""
    directory = tmp_path_factory.mktemp("engine-faults")
    settings = {"engine": "vllm_local", "policy": str(language_model(directory / "model"))}
    settings |= {"timeouts__recommend_s": str(_DEADLINE_S)}
    with running(directory / "data", until="/readyz", within_s=240, **settings) as started:
        yield started


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
def test_an_engine_that_fails_under_traffic_costs_no_reply_and_comes_back(
    service: ServiceProcess, tmp_path: Path, number: signal.Signals
) -> None:
    ledger = Ledger(tmp_path / "ledger")

    with Traffic(service, ledger) as traffic:
        traffic.wait_for_model(time.monotonic(), within_s=10)
        failed_at = time.monotonic()
        before = _core(service)
        before.send_signal(number)
        away_s = _until_degraded(traffic, failed_at)
        back_s = traffic.wait_for_model(failed_at + away_s, within_s=_BACK_S)
        service.wait("/readyz", within_s=_BACK_S)
        time.sleep(1.0)

    after = [reply for reply in traffic.replies if reply.began > failed_at - 1]
    degraded = [reply for reply in after if reply.served_by != "model"]
    assert {reply.status for reply in traffic.replies} == {200}
    assert quantile_s(traffic.replies, 0.99) <= _DEADLINE_S + _GRACE_S
    assert degraded
    assert {reply.reason for reply in degraded} <= {"engine_unavailable", "engine_busy", "deadline"}
    assert away_s + back_s < _BACK_S
    assert _core(service).pid != before.pid
    assert not before.is_running() or before.status() == psutil.STATUS_ZOMBIE
    must_hold(ledger, service.database_url, at_least=20)


async def test_a_client_that_leaves_takes_its_request_out_of_the_engine(tmp_path: Path) -> None:
    port, model = free_port(), scripted_policy(tmp_path / "model")
    settings = Settings(_env_file=None, data_dir=tmp_path, engine="scripted", policy=str(model))
    database.upgrade(settings.resolved_database_url(), Timeouts())
    app = create_app(settings)
    server = uvicorn.Server(uvicorn.Config(app, port=port, http=ImpatientProtocol, log_config=None))
    serving = asyncio.create_task(server.serve())
    await _until(lambda: server.started)
    await _until(lambda: app.state.runtime.engine_phase == "ready")
    scripted = app.state.runtime.policies.of("suggest").engine._engine
    scripted.delay_s = 5.0

    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(http("POST", "/recommend", b'{"task":"suggest","query":"kyoto","timeout_ms":4000}'))
    await _until(lambda: scripted.running == 1)
    left_at = time.monotonic()
    writer.close()
    await _until(lambda: scripted.cancelled == 1)
    aborted_after_s = time.monotonic() - left_at

    assert aborted_after_s < _ABORT_S
    assert scripted.running == 0
    server.should_exit = True
    await serving


def test_clients_that_leave_for_a_while_leak_nothing(service: ServiceProcess) -> None:
    body = b'{"task":"suggest","query":"kyoto in autumn","n":10}'
    service.post("/recommend", {"task": "suggest", "query": "kyoto"})
    before = service.rss_mb()

    for _ in range(200):
        exchange(service.port, http("POST", "/recommend", body), wait_s=0.01)

    reply = service.post("/recommend", {"task": "suggest", "query": "kyoto in winter"}).json()
    assert reply["served_by"] == "model"
    assert service.rss_mb() - before < 30


def _core(service: ServiceProcess) -> psutil.Process:
    """The process that the engine computes in: the one with most memory."""
    return max(service.children(), key=lambda process: process.memory_info().rss)


def _until_degraded(traffic: Traffic, since: float) -> float:
    while time.monotonic() < since + 15:
        for reply in list(traffic.replies):
            if reply.ended > since and reply.served_by != "model":
                return reply.ended - since
        time.sleep(0.02)
    raise AssertionError("The fault was not noticed by any request.")


async def _until(true: Callable[[], bool], within_s: float = 5.0) -> None:
    async with asyncio.timeout(within_s):
        while not true():
            await asyncio.sleep(0.002)
