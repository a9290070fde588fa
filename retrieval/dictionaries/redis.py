"""The dictionary in Redis, for services on many machines.

It knows nothing about files. Keys of one build: `<prefix>:<build>:<bucket>` are hashes of entries by query, and
`<prefix>:<build>` says that all of them are there. `<prefix>:current` names the build that was published last.
"""

import json
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any

from redis import Redis as BlockingRedis
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.client import Pipeline
from redis.exceptions import RedisError
from redis.retry import Retry

from retrieval.dictionaries import NextQuery, from_bytes
from service.contract.errors import RetrievalError

PREFIX = "nextquery:cor"
_ENTRIES_A_BUCKET = 64  # so that letting a build expire touches few keys
_BATCH = 5_000
_PAUSE_S = 1.0  # after a failure nobody asks Redis for so long, so that one that hangs costs one wait and not all
_CONNECTIONS = 16


class RedisDictionary:
    """D_coo of one build in Redis."""

    def __init__(self, redis: Redis, build: str, buckets: int) -> None:
        """Read the build that `open_redis_dictionary` found."""
        self.build = build
        self._redis = redis
        self._buckets = buckets
        self._away_until = 0.0

    async def next_queries(self, query_ids: Sequence[int]) -> list[tuple[NextQuery, ...]]:
        """What followed each query, by one pipelined round trip.

        Raises:
            RetrievalError: Redis is away, or was a moment ago.
        """
        if time.monotonic() < self._away_until:
            raise RetrievalError(
                "Redis did not answer a moment ago and is not asked yet. `nextquery doctor` tells more."
            )
        try:
            pipeline = self._redis.pipeline(transaction=False)
            for query_id in query_ids:
                pipeline.hget(bucket_key(self.build, query_id, self._buckets), str(query_id))
            found = await pipeline.execute()
            return [from_bytes(entry) if entry is not None else () for entry in found]
        except (RedisError, OSError, ValueError, TypeError) as error:
            self._away_until = time.monotonic() + _PAUSE_S
            raise RetrievalError(
                f"Redis did not give the co-occurrence dictionary: {type(error).__name__}. Check that it runs and that "
                "NEXTQUERY_REDIS_URL is right."
            ) from None

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()


def bucket_key(build: str, query_id: int, buckets: int) -> str:
    """The hash that holds a query's entry."""
    return f"{PREFIX}:{build}:{query_id % buckets}"


def connect(url: str, timeout_s: float) -> Redis:
    """A client that gives up after `timeout_s` at every step, and never tries again by itself."""
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=_CONNECTIONS,
        timeout=timeout_s,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=AsyncRetry(NoBackoff(), 0),
    )
    return Redis(connection_pool=pool)


async def open_redis_dictionary(url: str, build: str, timeout_s: float) -> RedisDictionary:
    """The dictionary of `build`.

    Raises:
        RetrievalError: Redis is away, or has not all of this build.
    """
    redis = connect(url, timeout_s)
    try:
        marker = await redis.get(f"{PREFIX}:{build}")
        buckets = int(json.loads(marker)["buckets"]) if marker is not None else 0
    except (RedisError, OSError, ValueError, TypeError, KeyError) as error:
        await redis.aclose()
        raise RetrievalError(
            f"Redis did not say whether it has the dictionary {build}: {type(error).__name__}. Check that it runs and "
            "that NEXTQUERY_REDIS_URL is right."
        ) from None
    if not buckets:
        await redis.aclose()
        raise RetrievalError(
            f"Redis does not have the dictionary of the build {build}. Usually it was flushed, or the build was never "
            f"published to it: run `nextquery retrieval publish {build}`."
        )
    return RedisDictionary(redis, build, buckets)


def publish_to_redis(
    url: str, build: str, entries: Iterable[tuple[int, bytes]], count: int, *, timeout_s: float, keep_old_s: int
) -> None:
    """Write all entries under the key space of `build`, then make it the current one in one step.

    An unfinished build expires by itself. The build that was current before expires in `keep_old_s` seconds.

    Raises:
        RetrievalError: Redis is away.
    """
    buckets = max(1, count // _ENTRIES_A_BUCKET)
    retry = Retry(NoBackoff(), 0)
    try:
        with BlockingRedis.from_url(
            url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=retry
        ) as redis:
            _write(redis, build, entries, buckets, keep_old_s)
            _switch(redis, build, buckets, count, keep_old_s)
    except (RedisError, OSError) as error:
        raise RetrievalError(
            f"The dictionary {build} could not be written to Redis: {type(error).__name__}: {error}. The one that was "
            "there is unchanged. Check that Redis runs, then run `nextquery retrieval publish` again."
        ) from None


def _write(redis: BlockingRedis, build: str, entries: Iterable[tuple[int, bytes]], buckets: int, keep_s: int) -> None:
    rest = iter(entries)
    while batch := list(islice(rest, _BATCH)):
        by_bucket: dict[str, dict[str, bytes]] = {}
        for query_id, entry in batch:
            by_bucket.setdefault(bucket_key(build, query_id, buckets), {})[str(query_id)] = entry
        pipeline = redis.pipeline(transaction=False)
        for key, fields in by_bucket.items():
            pipeline.hset(key, mapping=fields)  # type: ignore[arg-type]
            pipeline.expire(key, keep_s)
        pipeline.execute()


def _switch(redis: BlockingRedis, build: str, buckets: int, count: int, keep_old_s: int) -> None:
    _for_each(redis, _keys(build, buckets), lambda pipeline, key: pipeline.persist(key))
    previous: Any = redis.get(f"{PREFIX}:current")
    with redis.pipeline(transaction=True) as pipeline:
        pipeline.set(f"{PREFIX}:{build}", json.dumps({"buckets": buckets, "entries": count}))
        pipeline.set(f"{PREFIX}:current", build)
        pipeline.execute()
    if previous and (old := previous.decode()) != build:
        marker = redis.get(f"{PREFIX}:{old}")
        its_keys = _keys(old, int(json.loads(marker)["buckets"]) if marker else 0)
        _for_each(redis, [*its_keys, f"{PREFIX}:{old}"], lambda pipeline, key: pipeline.expire(key, keep_old_s))


def _for_each(redis: BlockingRedis, keys: list[str], command: Callable[[Pipeline, str], object]) -> None:
    for start in range(0, len(keys), _BATCH):
        pipeline = redis.pipeline(transaction=False)
        for key in keys[start : start + _BATCH]:
            command(pipeline, key)
        pipeline.execute()


def _keys(build: str, buckets: int) -> list[str]:
    return [f"{PREFIX}:{build}:{bucket}" for bucket in range(buckets)]
