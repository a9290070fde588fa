"""Publishing a build to Redis is one step, and a Redis that is away costs one short wait."""

import asyncio
import contextlib
import json
import signal
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from retrieval.dictionaries import NextQuery, to_bytes
from retrieval.dictionaries.redis import PREFIX, bucket_key, open_redis_dictionary, publish_to_redis
from service.contract.errors import RetrievalError
from tests.redis_server import own_redis

ENTRY = to_bytes([NextQuery("rice cooker", 1.0)])


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Any]]:
    """A Redis of this test's own."""
    with own_redis(tmp_path) as running:
        yield running


def publish(url: str, build: str, numbers: range, *, keep_old_s: int = 60) -> None:
    entries = ((number, ENTRY) for number in numbers)
    publish_to_redis(url, build, entries, len(numbers), timeout_s=2, keep_old_s=keep_old_s)


async def test_a_newer_build_takes_over_and_the_old_one_expires(server: tuple[str, Any]) -> None:
    url, _ = server
    publish(url, "old", range(500))

    publish(url, "new", range(600), keep_old_s=100)

    client = redis.Redis.from_url(url)
    lives = {key.decode(): client.ttl(key) for key in client.keys(f"{PREFIX}:*")}
    assert client.get(f"{PREFIX}:current") == b"new"
    assert {0 < ttl <= 100 for key, ttl in lives.items() if ":old" in key} == {True}
    assert {ttl for key, ttl in lives.items() if ":old" not in key} == {-1}
    old = await open_redis_dictionary(url, "old", 1)
    assert await old.next_queries([499]) == [(NextQuery("rice cooker", 1.0),)]  # requests under way still find it


async def test_a_build_that_was_cut_off_is_never_seen_and_goes_by_itself(server: tuple[str, Any]) -> None:
    url, _ = server

    def cut_off() -> Iterator[tuple[int, bytes]]:
        yield from ((number, ENTRY) for number in range(6000))
        raise OSError("The disk went away.")

    with pytest.raises(RetrievalError, match="unchanged"):
        publish_to_redis(url, "half", cut_off(), 9000, timeout_s=2, keep_old_s=60)

    client = redis.Redis.from_url(url)
    keys = client.keys(f"{PREFIX}:half*")
    assert keys
    assert all(0 < client.ttl(key) <= 60 for key in keys)
    with pytest.raises(RetrievalError, match="nextquery retrieval publish half"):
        await open_redis_dictionary(url, "half", 1)


@pytest.mark.alone
async def test_a_lookup_is_one_round_trip_however_many_are_asked(server: tuple[str, Any]) -> None:
    url, _ = server
    publish(url, "b", range(1000))
    async with slow_wire(url, delay_s=0.1) as slow_url:
        dictionary = await open_redis_dictionary(slow_url, "b", 5)
        await dictionary.next_queries([1])

        started = time.monotonic()
        found = await dictionary.next_queries(list(range(0, 1000, 10)))

        assert 0.1 <= time.monotonic() - started < 0.2
        assert len(found) == 100
        await dictionary.close()


@contextlib.asynccontextmanager
async def slow_wire(url: str, *, delay_s: float) -> AsyncIterator[str]:
    """A way to the same Redis on which every request takes `delay_s` longer."""
    port = int(url.split(":")[2].split("/")[0])

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)
        answers = asyncio.create_task(_copy(there, writer, 0.0))
        await _copy(reader, back, delay_s)
        answers.cancel()
        back.close()
        writer.close()

    wire = await asyncio.start_server(carry, "127.0.0.1", 0)
    try:
        yield f"redis://127.0.0.1:{wire.sockets[0].getsockname()[1]}/0"
    finally:
        wire.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float) -> None:
    while data := await reader.read(1 << 20):
        await asyncio.sleep(delay_s)
        writer.write(data)
        await writer.drain()


@pytest.mark.parametrize("fault", ["killed", "frozen", "flushed", "wrong type", "garbage"])
async def test_a_harmed_redis_is_an_error_in_time_or_an_empty_answer(server: tuple[str, Any], fault: str) -> None:
    url, process = server
    publish(url, "b", range(100))
    dictionary = await open_redis_dictionary(url, "b", 0.05)
    client = redis.Redis.from_url(url)
    if fault == "killed":
        process.kill()
    elif fault == "frozen":
        process.send_signal(signal.SIGSTOP)
    elif fault == "flushed":
        client.flushall()
    elif fault == "wrong type":
        client.delete(bucket_key("b", 7, 1))
        client.set(bucket_key("b", 7, 1), "no hash")
    else:
        client.hset(bucket_key("b", 7, 1), "7", "no JSON")

    started = time.monotonic()
    answers = []
    for _ in range(50):
        try:
            answers += await dictionary.next_queries([7])
        except RetrievalError as error:
            answers.append(str(error))
    took = time.monotonic() - started

    assert took < 0.5  # fifty times a timeout would be 2.5 s
    assert len(answers) == 50
    assert set(answers) == {()} if fault == "flushed" else all("Redis" in answer for answer in answers)


async def test_a_redis_that_came_back_is_asked_again(server: tuple[str, Any]) -> None:
    url, process = server
    publish(url, "b", range(10))
    dictionary = await open_redis_dictionary(url, "b", 0.2)
    process.send_signal(signal.SIGSTOP)
    with pytest.raises(RetrievalError):
        await dictionary.next_queries([1])
    process.send_signal(signal.SIGCONT)

    await asyncio.sleep(1.1)
    found = await dictionary.next_queries([1])

    assert found == [(NextQuery("rice cooker", 1.0),)]


async def test_a_marker_that_says_nothing_is_refused(server: tuple[str, Any]) -> None:
    url, _ = server
    redis.Redis.from_url(url).set(f"{PREFIX}:odd", json.dumps(["what"]))

    with pytest.raises(RetrievalError):
        await open_redis_dictionary(url, "odd", 1)


async def test_no_redis_at_all_is_an_error_with_the_way_out() -> None:
    with pytest.raises(RetrievalError, match="NEXTQUERY_REDIS_URL"):
        await open_redis_dictionary("redis://127.0.0.1:1/0", uuid.uuid4().hex, 0.2)
