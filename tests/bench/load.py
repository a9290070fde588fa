"""A load generator light enough to leave the cores to the servers: HTTP/1.1 over plain asyncio sockets.

It knows nothing about what it posts.
"""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Result:
    """What a load met. `latencies_s` of every answer, `statuses` counted, `bodies` when they were asked for."""

    seconds: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)
    bodies: list[bytes] = field(default_factory=list)

    @property
    def per_s(self) -> float:
        """Answers per second."""
        return len(self.latencies_s) / self.seconds

    def quantile_ms(self, share: float) -> float:
        """Latency that `share` of the answers did not exceed."""
        ordered = sorted(self.latencies_s)
        return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Connection:
    """One kept-alive connection; one request at a time."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port

    async def __aenter__(self) -> "Connection":
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def post(self, request: bytes) -> tuple[int, bytes]:
        """Status and body of one answer."""
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        status = int(head[9:12])
        lower = head.lower()
        mark = lower.index(b"content-length:") + 15
        length = int(lower[mark : lower.index(b"\r\n", mark)])
        return status, await self._reader.readexactly(length)


def http_post(path: str, body: Any) -> bytes:
    """The bytes of a POST with a JSON body."""
    data = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


async def closed_loop(
    port: int, requests: Sequence[bytes], *, concurrency: int, keep_bodies: bool = False, host: str = "127.0.0.1"
) -> Result:
    """Post all `requests` from `concurrency` connections, each sending its next when the last is answered."""
    result, pending = Result(), iter(requests)

    async def worker() -> None:
        async with Connection(host, port) as connection:
            for request in pending:
                started = time.perf_counter()
                status, body = await connection.post(request)
                result.latencies_s.append(time.perf_counter() - started)
                result.statuses[status] = result.statuses.get(status, 0) + 1
                if keep_bodies:
                    result.bodies.append(body)

    started = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(concurrency)))
    result.seconds = time.perf_counter() - started
    return result


async def open_loop(
    port: int,
    make: Callable[[int], bytes],
    *,
    per_s: int,
    seconds: float,
    connections: int = 64,
    host: str = "127.0.0.1",
) -> Result:
    """Post at a fixed rate whatever the answers do; latency counts from the time a post was due."""
    result = Result()
    due: asyncio.Queue[tuple[float, bytes] | None] = asyncio.Queue()

    async def worker() -> None:
        async with Connection(host, port) as connection:
            while (item := await due.get()) is not None:
                status, _ = await connection.post(item[1])
                result.latencies_s.append(time.perf_counter() - item[0])
                result.statuses[status] = result.statuses.get(status, 0) + 1

    workers = [asyncio.create_task(worker()) for _ in range(connections)]
    started = time.perf_counter()
    for number in range(int(per_s * seconds)):
        at = started + number / per_s
        if (wait := at - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        due.put_nowait((at, make(number)))
    for _ in workers:
        due.put_nowait(None)
    await asyncio.gather(*workers)
    result.seconds = time.perf_counter() - started
    return result
