"""SIGTERM in traffic: readiness goes off at once, what is in flight is answered, and it ends with 0 in time."""

import json
import signal
import socket
import threading
import time
from pathlib import Path

import httpx
import pytest

from tests.chaos.ledger import Ledger, Traffic, must_hold
from tests.service_process import running

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(120)]

_GONE_S = 10
_NOTICED_S = 0.1


def test_sigterm_in_traffic_ends_with_0_in_time_and_loses_nothing(database_url: str, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")

    with running(tmp_path / "data", database_url=database_url) as service:
        with Traffic(service, ledger) as traffic:
            time.sleep(1.5)
            told_at = time.monotonic()
            code = service.terminate()
            gone_s = time.monotonic() - told_at

    assert code == 0
    assert gone_s < _GONE_S
    assert {reply.status for reply in traffic.replies if reply.ended < told_at} == {200}
    assert {reply.status for reply in traffic.replies if reply.status} == {200}
    must_hold(ledger, database_url, at_least=50)


def test_a_request_in_flight_is_answered_and_readiness_is_off_meanwhile(tmp_path: Path) -> None:
    body = json.dumps({"task": "suggest", "query": "kyoto"}).encode()
    head = f"POST /recommend HTTP/1.1\r\nhost: a\r\ncontent-length: {len(body)}\r\n\r\n".encode()

    with running(tmp_path / "data") as service:
        with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
            connection.sendall(head + body[:10])
            time.sleep(0.3)
            assert service.process is not None
            service.process.send_signal(signal.SIGTERM)
            time.sleep(_NOTICED_S)
            ready = _readiness(service.url)
            time.sleep(1.0)
            connection.sendall(body[10:])
            answer = connection.recv(65536)
        code = service.process.wait(_GONE_S)

    assert ready in (0, 503)  # 0: nobody listens any more
    assert answer.startswith(b"HTTP/1.1 200")
    assert code == 0


def test_a_request_that_never_ends_does_not_hold_the_process(tmp_path: Path) -> None:
    with running(tmp_path / "data", timeouts__request_body_s="60") as service:
        with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
            connection.sendall(b"POST /recommend HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n{")
            time.sleep(0.3)
            told_at = time.monotonic()
            code = service.terminate()

    assert time.monotonic() - told_at < _GONE_S
    assert code == 0


def test_a_second_sigterm_changes_nothing(tmp_path: Path) -> None:
    with running(tmp_path / "data") as service:
        assert service.process is not None
        again = threading.Timer(0.05, service.process.send_signal, [signal.SIGTERM])
        again.start()
        code = service.terminate()
        again.join()

    assert code == 0


def _readiness(url: str) -> int:
    try:
        return httpx.get(f"{url}/readyz", timeout=2).status_code
    except httpx.HTTPError:
        return 0
