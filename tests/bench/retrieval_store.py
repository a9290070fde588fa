"""Speed and size of retrieval with a million queries: real ones, jittered.

Vectors are those of real queries with noise added, so that each has about seventy near copies; entries are as long as
those of real sessions. It knows the parts of a build, and puts one together by hand.
"""

import asyncio
import hashlib
import json
import random
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import redis
from numpy.typing import NDArray

from retrieval.dictionaries import Dictionary, NextQuery, to_key
from retrieval.dictionaries.mapped import MappedDictionary, write_dictionary
from retrieval.dictionaries.redis import PREFIX, open_redis_dictionary, publish_to_redis
from retrieval.encoder import Encoder, default_encoder
from retrieval.index import GRAPH, QueryIndex, build_index, kind_for
from retrieval.searcher import Searcher, SearchRule
from service.contract.query_text import match_key, query_id
from tests.bench.report import ROOT

COUNT = 1_000_000
_BUILD = "bench"
_NOISE = 0.48  # length of the noise beside a vector of length 1: a copy has similarity .9 to the original
_LOOKUPS = 20_000
_SEARCHES = 1_500
_COMPARED = 300
_WARM = 100
_REDIS = "redis://127.0.0.1:6379/9"
_SESSIONS = ROOT.parent / "shared" / "data" / "sessions.jsonl"
_KEPT = ROOT / ".bench" / "retrieval-store"


def figures() -> dict[str, float]:
    """What this module measures, in a process that holds nothing else, as a service does."""
    done = subprocess.run([sys.executable, "-m", __name__], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure() -> dict[str, float]:
    """Latencies of one lookup at a time, recall of the index, bytes of everything a million queries need."""
    return asyncio.run(_figures())


async def _figures() -> dict[str, float]:
    texts = _real_queries()
    encoder = Encoder(default_encoder())
    real = encoder.encode([match_key(text) for text in texts])
    made_as = f"{kind_for(COUNT, encoder.dimension, on_gpu=False)}-{GRAPH}"
    build = _KEPT / f"{COUNT}-{len(texts)}-{hashlib.sha256(made_as.encode()).hexdigest()[:8]}"
    if not (build / "done").exists():
        _assemble(build, texts, real, encoder)
    index = QueryIndex.load(build / "index.faiss")
    mapped = MappedDictionary(build / "dictionary.lmdb")
    found = {"bytes_per_query": sum(f.stat().st_size for f in build.rglob("*") if f.is_file()) / COUNT}
    found |= _of_index(index, texts, real)
    found["semantic_p99_ms"] = await _semantic(encoder, index, mapped, texts)
    found["exact_p99_ms_memory"] = await _exact(encoder, index, mapped, texts)
    found |= await _in_redis(encoder, index, mapped, texts)
    await mapped.close()
    return found


def _real_queries() -> list[str]:
    lines = _SESSIONS.read_text(encoding="utf-8").splitlines()
    return sorted({query for line in lines for query in json.loads(line)["queries"]})


def _assemble(build: Path, texts: Sequence[str], real: NDArray[np.float32], encoder: Encoder) -> None:
    shutil.rmtree(build, ignore_errors=True)  # of a run that was cut off
    build.mkdir(parents=True)
    started = time.monotonic()
    in_order = sorted(dict(_entries(texts)).items(), key=lambda entry: to_key(entry[0]))
    write_dictionary(build / "dictionary.lmdb", _BUILD, in_order)
    print(f"  dictionary after {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    ids = np.array([query_id(_name(texts, row)) for row in range(COUNT)], np.int64)
    kind = build_index(ids, _jittered(real), build / "index.faiss")
    print(f"  index {kind} after {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    encoder.model.save_pretrained(str(build / "encoder"), create_model_card=False)
    (build / "done").touch()


def _name(texts: Sequence[str], row: int) -> str:
    """The real queries first, then numbered forms of them."""
    text = match_key(texts[row % len(texts)])
    return text if row < len(texts) else f"{text} {row}"


def _jittered(real: NDArray[np.float32]) -> NDArray[np.float32]:
    rng = np.random.default_rng(0)
    vectors = np.empty((COUNT, real.shape[1]), np.float32)
    for start in range(0, COUNT, len(real)):
        rows = min(len(real), COUNT - start)
        noise = rng.normal(0, _NOISE / real.shape[1] ** 0.5, (rows, real.shape[1])).astype(np.float32)
        vectors[start : start + rows] = real[:rows] + noise
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def _entries(texts: Sequence[str]) -> Iterator[tuple[int, list[NextQuery]]]:
    """As many next queries as queries of real sessions have: most one or two, some twenty."""
    rng = random.Random(0)
    lengths = [1] * 55 + [2] * 20 + [3] * 10 + [5] * 8 + [10] * 5 + [20] * 2
    for row in range(COUNT):
        chosen = rng.choices(texts, k=rng.choice(lengths))
        yield query_id(_name(texts, row)), [NextQuery(text, rng.random()) for text in chosen]


def _of_index(index: QueryIndex, texts: Sequence[str], real: NDArray[np.float32]) -> dict[str, float]:
    """Recall of the ten nearest against comparing with all, and the time of one search; asked are other jitters."""
    rng = np.random.default_rng(1)
    noise = rng.normal(0, _NOISE / real.shape[1] ** 0.5, (_SEARCHES, real.shape[1])).astype(np.float32)
    asked = real[rng.integers(len(real), size=_SEARCHES)] + noise
    asked /= np.linalg.norm(asked, axis=1, keepdims=True)
    true = _true_nearest(asked[:_COMPARED], texts, real)
    found: list[list[tuple[int, float]]] = []
    times = [_timed(lambda row=row: found.extend(index.nearest(row[None], 10))) for row in asked]
    hits = [len({i for i, _ in each} & set(best)) / 10 for each, best in zip(found, true, strict=False)]
    return {"index_recall10": float(np.mean(hits)), "index_p99_ms": _p99(times)}


def _true_nearest(asked: NDArray[np.float32], texts: Sequence[str], real: NDArray[np.float32]) -> list[list[int]]:
    vectors = _jittered(real)
    best = [np.argpartition(-(vectors @ row), 10)[:10] for row in asked]
    return [[query_id(_name(texts, int(row))) for row in rows] for rows in best]


async def _semantic(encoder: Encoder, index: QueryIndex, dictionary: Dictionary, texts: Sequence[str]) -> float:
    """Time of a search for queries that the dictionary lacks: encoder, index, thirty neighbours, merge."""
    searcher = Searcher(_BUILD, encoder, index, dictionary, SearchRule())
    asked = [f"{text} please" for text in random.Random(2).choices(texts, k=_SEARCHES)]
    return await _p99_of(asked, lambda query: searcher.search(query, timeout_s=60))


async def _exact(encoder: Encoder, index: QueryIndex, dictionary: Dictionary, texts: Sequence[str]) -> float:
    """Time of a search for queries that the dictionary has, all through the door."""
    searcher = Searcher(_BUILD, encoder, index, dictionary, SearchRule(n=1))
    asked = [_name(texts, row) for row in random.Random(3).choices(range(COUNT), k=_LOOKUPS)]
    return await _p99_of(asked, lambda query: searcher.search(query, timeout_s=60))


async def _in_redis(
    encoder: Encoder, index: QueryIndex, mapped: MappedDictionary, texts: Sequence[str]
) -> dict[str, float]:
    build = f"bench-{uuid.uuid4().hex[:8]}"
    with redis.Redis.from_url(_REDIS) as client:
        before = client.info("memory")["used_memory"]
        publish_to_redis(_REDIS, build, mapped.entries(), COUNT, timeout_s=60, keep_old_s=60)
        size = (client.info("memory")["used_memory"] - before) / COUNT
        dictionary = await open_redis_dictionary(_REDIS, build, 5)
        try:
            return {
                "exact_p99_ms_redis": await _exact(encoder, index, dictionary, texts),
                "redis_bytes_per_query": size,
            }
        finally:
            await dictionary.close()
            for key in client.scan_iter(f"{PREFIX}:{build}*", count=10_000):
                client.unlink(key)


async def _p99_of(asked: Sequence[str], search: Callable[[str], Awaitable[Any]]) -> float:
    for query in asked[:_WARM]:
        await search(query)
    times = []
    for query in asked:
        started = time.perf_counter()
        await search(query)
        times.append(time.perf_counter() - started)
    return _p99(times)


def _timed(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _p99(seconds: Sequence[float]) -> float:
    return float(np.quantile(seconds, 0.99) * 1000)


if __name__ == "__main__":
    print(json.dumps(measure()))
