"""kill -9 of the service in traffic: no acknowledged click is lost, none is there twice, no engine stays behind."""

import time
from pathlib import Path

import psutil
import pytest

from tests.chaos.ledger import Ledger, Traffic, must_hold
from tests.service_process import ServiceProcess, language_model, running, scripted_policy

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]

_KILLS = 5
_READY_S = 30
_ORPHAN_S = 10


def test_five_kills_in_traffic_lose_no_acknowledged_click(database_url: str, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    ready_s = []
    settings = {"engine": "scripted", "policy": str(scripted_policy(tmp_path / "model")), "database_url": database_url}

    with running(tmp_path / "data", until="/readyz", **settings) as service:
        with Traffic(service, ledger) as traffic:
            for _ in range(_KILLS):
                time.sleep(1.0)
                service.kill()
                began = time.monotonic()
                service.start(until="/readyz", within_s=_READY_S)
                ready_s.append(time.monotonic() - began)
            time.sleep(1.0)

    assert max(ready_s) < _READY_S
    assert {status for status in traffic.statuses if status} <= {200, 202}
    assert {reply.status for reply in traffic.replies} <= {0, 200}
    assert 0 in traffic.statuses + [reply.status for reply in traffic.replies], "No request met a kill."
    must_hold(ledger, database_url, at_least=20 * _KILLS)


def test_a_killed_service_leaves_no_engine_behind_and_is_ready_again_with_its_model(tmp_path: Path) -> None:
    model = language_model(tmp_path / "model")
    ledger = Ledger(tmp_path / "ledger")
    settings = {"engine": "vllm_local", "policy": str(model)}

    with running(tmp_path / "data", until="/readyz", within_s=240, **settings) as service:
        with Traffic(service, ledger, people=2):
            time.sleep(2.0)
            processes = service.children()
            service.kill()
            left_s = _until_gone(processes)
            again_s = _start_again(service)

    assert processes, "The engine had no process of its own."
    assert left_s < _ORPHAN_S
    assert again_s < _READY_S
    must_hold(ledger, service.database_url, at_least=10)


def _until_gone(processes: list[psutil.Process]) -> float:
    began = time.monotonic()
    psutil.wait_procs(processes, timeout=_ORPHAN_S)
    assert not [process for process in processes if process.is_running()], "A process of the engine outlived it."
    return time.monotonic() - began


def _start_again(service: ServiceProcess) -> float:
    began = time.monotonic()
    service.start(until="/readyz", within_s=_READY_S + 10)
    return time.monotonic() - began
