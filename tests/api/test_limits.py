"""Long, slow and many: every request is bounded in size, time and number, and memory stays flat.

Against real processes, over raw sockets. It knows nothing about what a body means.
"""

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.api.hostile import MARKER
from tests.service_process import Answer, ServiceProcess, exchange, http, running

_MEGABYTE = 1_000_000
_MOST_GROWTH_MB = 25
_TIMEOUT_S = 1.0  # as the fixture `service` sets it
_LATE_S = _TIMEOUT_S + 1.5
_PIECE = MARKER.encode() * 5000


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """A service that takes two requests at once."""
    with running(tmp_path_factory.mktemp("narrow"), max_in_flight="2") as started:
        yield started


@pytest.mark.parametrize("path", ["/recommend", "/click"])
def test_ten_megabytes_are_refused_before_they_are_read(service: ServiceProcess, path: str) -> None:
    before = service.rss_mb()

    answers = [exchange(service.port, _head(path, "content-length: 10000000"), *_PIECES) for _ in range(10)]

    for answer in answers:
        _must_be_problem(answer, 413)
        assert answer.closed_after_s is not None
    assert service.rss_mb() - before < _MOST_GROWTH_MB


@pytest.mark.parametrize("path", ["/recommend", "/click"])
def test_ten_megabytes_in_chunks_without_a_length_are_refused(service: ServiceProcess, path: str) -> None:
    chunks = [b"%x\r\n%s\r\n" % (len(_PIECE), _PIECE)] * (10 * _MEGABYTE // len(_PIECE))
    before = service.rss_mb()

    answers = [exchange(service.port, _head(path, "transfer-encoding: chunked"), *chunks) for _ in range(10)]

    for answer in answers:
        _must_be_problem(answer, 413)
        assert answer.closed_after_s is not None
    assert service.rss_mb() - before < _MOST_GROWTH_MB


def test_ten_megabytes_to_a_page_that_reads_no_body_leave_memory_flat(service: ServiceProcess) -> None:
    before = service.rss_mb()

    for path in ("/livez", "/nothing"):
        for method in ("GET", "POST"):
            head = _head(path, "content-length: 10000000", method=method)
            answer = exchange(service.port, head, *_PIECES, whole=False, wait_s=3)

            assert answer.status in (404, 405, 413), answer.head
            assert MARKER.encode() not in answer.raw

    assert service.rss_mb() - before < _MOST_GROWTH_MB


def test_a_hundred_thousand_headers_are_refused_and_leave_memory_flat(service: ServiceProcess) -> None:
    lines = [b"x-%d: %s\r\n" % (number, MARKER.encode()) for number in range(100_000)]
    pieces = [b"".join(lines[start : start + 1000]) for start in range(0, len(lines), 1000)]
    before = service.rss_mb()

    answer = exchange(service.port, b"GET /livez HTTP/1.1\r\nhost: a\r\n", *pieces, b"\r\n")

    _must_be_refused_head(answer)
    assert service.rss_mb() - before < _MOST_GROWTH_MB


@pytest.mark.parametrize(
    "start", [b"GET /livez HTTP/1.1\r\nhost: a\r\nx-a: ", b"GET /", b"", b"GET /livez HTTP/1.1\r\nx-"]
)
def test_a_head_of_a_megabyte_is_refused_and_leaves_memory_flat(service: ServiceProcess, start: bytes) -> None:
    before = service.rss_mb()

    answers = [exchange(service.port, start, *[b"a" * 20_000] * 50) for _ in range(5)]

    for answer in answers:
        _must_be_refused_head(answer)
    assert service.rss_mb() - before < _MOST_GROWTH_MB


@pytest.mark.parametrize("sent", [b"", b"G", b"GET /livez HTTP/1.1\r\nhost: a", b"GET /livez HTTP/1.1\r\n\r"])
def test_a_head_sent_by_half_is_closed_in_time(service: ServiceProcess, sent: bytes) -> None:
    answer = exchange(service.port, *([sent] if sent else []), whole=False)

    assert answer.closed_after_s is not None
    assert _TIMEOUT_S - 0.2 <= answer.closed_after_s < _LATE_S


def test_a_head_that_drips_is_closed_in_time(service: ServiceProcess) -> None:
    drops = [bytes([byte]) for byte in b"GET /livez HTTP/1.1\r\nx-a: " + b"a" * 60]

    answer = exchange(service.port, *drops, pause_s=0.1, whole=False)

    assert answer.closed_after_s is not None
    assert answer.closed_after_s < _LATE_S
    assert answer.status in (0, 408)


def test_a_second_head_sent_by_half_is_closed_in_time(service: ServiceProcess) -> None:
    answer = exchange(service.port, http("GET", "/livez"), b"GET /livez HTTP/1.1\r\n", pause_s=0.3, whole=False)

    assert answer.status == 200
    assert answer.closed_after_s is not None
    assert answer.closed_after_s < _LATE_S + 0.3


@pytest.mark.parametrize("path", ["/recommend", "/click"])
@pytest.mark.parametrize("framing", ["content-length: 1000", "transfer-encoding: chunked"])
def test_a_body_sent_by_half_is_closed_in_time(service: ServiceProcess, path: str, framing: str) -> None:
    half = b"5\r\n{}" if "chunked" in framing else b"{}"

    answer = exchange(service.port, _head(path, framing), half, whole=False)

    _must_be_problem(answer, 408)
    assert answer.closed_after_s is not None
    assert answer.closed_after_s < _LATE_S


def test_a_body_that_drips_is_closed_in_time(service: ServiceProcess) -> None:
    answer = exchange(service.port, _head("/recommend", "content-length: 1000"), *[b" "] * 60, pause_s=0.1, whole=False)

    _must_be_problem(answer, 408)
    assert answer.closed_after_s is not None
    assert answer.closed_after_s < _LATE_S


def test_a_body_longer_than_its_length_spoils_nothing(service: ServiceProcess) -> None:
    body = b'{"task":"suggest","query":"kyoto"}'

    answer = exchange(
        service.port, _head("/recommend", f"content-length: {len(body)}"), body + b"%%%%" * 100, whole=False
    )

    assert answer.status in (200, 400)  # 400: the rest was seen first, and is no request
    assert answer.closed_after_s is not None
    assert httpx.get(f"{service.url}/livez", timeout=5).status_code == 200


def test_a_client_that_leaves_in_the_middle_of_its_body_spoils_nothing(service: ServiceProcess) -> None:
    for _ in range(50):
        with socket.create_connection(("127.0.0.1", service.port), timeout=5) as connection:
            connection.sendall(_head("/click", "content-length: 1000") + b"{")

    assert service.post("/recommend", {"task": "suggest", "query": "kyoto"}).status_code == 200
    assert [line for line in service.log_lines() if line["level"] == "ERROR"] == []


def test_pipelined_requests_are_answered_in_their_order(service: ServiceProcess) -> None:
    last = b"GET /version HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"

    answer = exchange(service.port, http("GET", "/livez") * 20 + http("POST", "/nothing") + last, whole=False)

    statuses = [int(piece[:3]) for piece in answer.raw.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [200] * 20 + [404, 200]


def test_two_hundred_half_open_connections_keep_nobody_out(service: ServiceProcess) -> None:
    opened = [socket.create_connection(("127.0.0.1", service.port), timeout=5) for _ in range(200)]
    for connection in opened:
        connection.sendall(b"POST /click HTTP/1.1\r\nhost: a\r\n")

    reply = service.post("/recommend", {"task": "suggest", "query": "kyoto"})

    assert reply.status_code == 200
    for connection in opened:
        connection.close()


@pytest.mark.alone
def test_a_full_service_refuses_at_once_and_says_when_to_come_again(narrow: ServiceProcess) -> None:
    held = [socket.create_connection(("127.0.0.1", narrow.port), timeout=5) for _ in range(2)]
    for connection in held:
        connection.sendall(_head("/click", "content-length: 10") + b"{")

    reply = _until_full(narrow)
    alive = httpx.get(f"{narrow.url}/livez", timeout=5)

    assert reply.status_code == 503
    assert reply.headers["content-type"] == "application/problem+json"
    assert int(reply.headers["retry-after"]) >= 1
    assert reply.elapsed.total_seconds() < 0.25
    assert alive.status_code == 200
    for connection in held:
        connection.close()


def test_a_service_that_was_full_takes_requests_again(narrow: ServiceProcess) -> None:
    body = {"task": "suggest", "query": "kyoto"}
    replies: list[int] = []

    def post() -> None:
        replies.append(narrow.post("/recommend", body).status_code)

    threads = [threading.Thread(target=post) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert set(replies) <= {200, 503}
    assert narrow.post("/recommend", body).status_code == 200


def test_the_service_listens_on_loopback_unless_told_otherwise(narrow: ServiceProcess) -> None:
    listening = [c.laddr for c in psutil.Process(narrow.pid).net_connections() if c.status == psutil.CONN_LISTEN]

    assert [address.ip for address in listening] == ["127.0.0.1"]


def test_the_key_of_click_tokens_is_for_the_service_alone(narrow: ServiceProcess) -> None:
    key = Path(narrow.data_dir / "click_token.key")

    assert key.stat().st_mode & 0o077 == 0


_PIECES = [_PIECE] * (10 * _MEGABYTE // len(_PIECE))


def _head(path: str, *lines: str, method: str = "POST") -> bytes:
    return "\r\n".join(
        [f"{method} {path} HTTP/1.1", "host: a", "content-type: application/json", *lines, "", ""]
    ).encode()


def _must_be_problem(answer: Answer, status: int) -> None:
    assert answer.status == status, answer.raw[:300]
    assert b"content-type: application/problem+json" in answer.head
    assert json.loads(answer.body)["status"] == status
    assert MARKER.encode() not in answer.raw


def _must_be_refused_head(answer: Answer) -> None:
    """Refused, or cut off while it was still sending: then the reply may be lost on the way."""
    assert answer.closed_after_s is not None
    assert answer.status in (0, 400, 414, 431), answer.raw[:300]
    assert MARKER.encode() not in answer.raw


def _until_full(service: ServiceProcess) -> httpx.Response:
    for _ in range(20):  # the two that hold the places may still be on their way in
        reply = service.post("/recommend", {"task": "suggest", "query": "kyoto"})
        if reply.status_code == 503:
            return reply
    return reply
