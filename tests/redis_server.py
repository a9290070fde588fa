"""Where a real Redis is for tests, and one of our own that may be harmed.

It knows nothing about what is kept in it.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import redis

from tests.conftest import require


def redis_url() -> str:
    """URL of a Redis that answers: NEXTQUERY_TEST_REDIS, else database 9 of 127.0.0.1:6379."""
    url = os.environ.get("NEXTQUERY_TEST_REDIS", "redis://127.0.0.1:6379/9")
    answers = False
    with contextlib.suppress(redis.RedisError), redis.Redis.from_url(url, socket_timeout=2) as client:
        answers = bool(client.ping())
    require(answers, "Redis does not answer: start it on 127.0.0.1:6379, or set NEXTQUERY_TEST_REDIS to its URL.")
    return url


@contextlib.contextmanager
def own_redis(directory: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """URL and process of a Redis that only this test uses."""
    program = shutil.which("redis-server")
    require(program, "There is no redis-server on this machine: install it to stage its faults.")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [str(program), "--port", str(port), "--save", "", "--appendonly", "no", "--dir", str(directory)],
        stdout=subprocess.DEVNULL,
    )
    try:
        url = f"redis://127.0.0.1:{port}/0"
        _wait_for(url)
        yield url, process
    finally:
        process.kill()
        process.wait()


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + 10
    with redis.Redis.from_url(url, socket_timeout=1) as client:
        while True:
            try:
                client.ping()
                return
            except redis.RedisError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
