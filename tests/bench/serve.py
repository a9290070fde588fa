"""The figures of serving: our service against vLLM's own server, clicks against a bare commit loop, the ladder.

It knows the service by its HTTP calls and its command line only.
"""

import asyncio
import itertools
import json
import random
import sqlite3
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psycopg

from service.contract.policy import Policy, load_policy
from service.contract.settings import STARTER, Settings
from service.contract.tasks import get_task
from service.contract.types import PromptContext
from service.engines.vllm_process import dtype
from tests.bench import load, servers
from tests.bench.report import Bar, Cell, main
from tests.postgres import fresh_database

_TOKENS = 24
_ROUNDS = 5
_REQUESTS = {1: 24, 8: 96, 32: 192}  # a round of each takes about 7 seconds on two slow cores
_CLICKS = 6_000
_WRITTEN = {"nothing_fit_to_show", "unparsable"}  # the model wrote it, and its 24 tokens without an end made no list

BARS = [
    *(Bar(f"requests_per_s_ratio_c{c}", "ratio", ">=", 0.95) for c in (32, 8, 1)),
    Bar("p50_ratio_c32", "ratio", "<=", 1.05),
    Bar("click_rate_ratio_postgres", "ratio", ">=", 0.6),
    Bar("click_rate_ratio_sqlite", "ratio", ">=", 0.6),
    Bar("click_p99_ms_at_1000_per_s", "ms", "<=", 50),
    Bar("ladder_p99_ms", "ms", "<=", 30),
    Bar("service_rss_mb", "MiB", "<=", 300),
    Bar("second_start_s", "s", "<=", 60),
    Bar("parse_ok_share", "share", ">=", 0.99),
    Bar("on_entity_share", "share", ">=", 0.9),
    Bar("distinct_share", "share", ">=", 0.97),
]


def throughput() -> dict[str, float]:
    """Requests/s and median latency against vLLM's OpenAI server: same model, prompts, sampling, token count."""
    policy = load_policy(STARTER)
    with (
        _directory() as data,
        servers.vllm_openai(STARTER, data / "vllm.log", *_vllm_arguments(), VLLM_CPU_KVCACHE_SPACE="1") as theirs,
        servers.nextquery(data, engine="vllm_local", exact_tokens=str(_TOKENS), timeouts__recommend_s="10") as ours,
    ):
        return asyncio.run(_compare(policy, ours.port, theirs.port))


async def _compare(policy: Policy, our_port: int, their_port: int) -> dict[str, float]:
    queries = _queries()
    rates: dict[tuple[int, str], list[float]] = {}
    medians: dict[str, list[float]] = {"ours": [], "theirs": []}
    for round_number, concurrency in itertools.product(range(-1, _ROUNDS), (32, 8, 1)):
        texts = [next(queries) for _ in range(_REQUESTS[concurrency] // (4 if round_number < 0 else 1))]
        sides = {
            "ours": (our_port, [_recommend(text) for text in texts]),
            "theirs": (their_port, [_completion(policy, text) for text in texts]),
        }
        for side in sorted(sides, reverse=round_number % 2 == 0):
            port, requests = sides[side]
            found = await load.closed_loop(port, requests, concurrency=concurrency, keep_bodies=True)
            _must_be_generated(side, found)
            if round_number < 0:
                continue  # the first pass warms both up
            rates.setdefault((concurrency, side), []).append(found.per_s)
            if concurrency == 32:
                medians[side].append(found.quantile_ms(0.5))
            print(f"  c{concurrency} {side}: {found.per_s:.1f}/s p50 {found.quantile_ms(0.5):.0f} ms", file=sys.stderr)
    figures = {f"requests_per_s_ratio_c{c}": _paired(rates[c, "ours"], rates[c, "theirs"]) for c in (32, 8, 1)}
    return figures | {"p50_ratio_c32": _paired(medians["ours"], medians["theirs"])}


def _paired(ours: list[float], theirs: list[float]) -> float:
    """The median over the rounds of ours / theirs: both sides of a round ran in a row, on the machine as it then was."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def _vllm_arguments() -> list[str]:
    """The engine settings that ours has too: what is compared is the server around the engine."""
    settings = Settings()
    lora = ["--max-loras", str(settings.lora_max_adapters), "--max-lora-rank", str(settings.lora_max_rank)]
    context = ["--max-model-len", str(settings.engine_context_tokens)]
    return ["--enforce-eager", "--dtype", dtype(settings), *context, "--enable-lora", *lora]


def _must_be_generated(side: str, found: load.Result) -> None:
    """Every list is from the model, every completion has the same number of tokens; else the ratio says nothing."""
    assert set(found.statuses) == {200}, f"{side} answered {found.statuses}"
    replies = [json.loads(body) for body in found.bodies]
    if side == "ours":
        others = [reply["degraded_reason"] for reply in replies if not is_generated(reply)]
        assert not others, others[:5]
        assert all(reply["recorded"] for reply in replies)
    else:
        assert all(reply["usage"]["completion_tokens"] == _TOKENS for reply in replies)


def is_generated(reply: Mapping[str, Any]) -> bool:
    """True where the model wrote: a list of which nothing may be shown was generated all the same."""
    return reply["served_by"] == "model" or reply["degraded_reason"] in _WRITTEN


def _queries() -> Iterator[str]:
    """Endless queries, each new, so that no cache can answer."""
    dice = random.Random(7)
    places = [
        "kyoto",
        "lisbon",
        "oslo",
        "quito",
        "sourdough",
        "index funds",
        "guitar",
        "python",
        "migraine",
        "tomatoes",
    ]
    asks = [
        "best {} for beginners {}",
        "{} in winter {}",
        "how to learn about {} {}",
        "{} prices {}",
        "is {} worth it {}",
    ]
    while True:
        yield dice.choice(asks).format(dice.choice(places), dice.randrange(10_000))


def _recommend(text: str) -> bytes:
    body = {"task": "suggest", "query": text, "user_id": "bench", "session_id": "bench", "track": False}
    return load.http_post("/recommend", body)


def _completion(policy: Policy, text: str) -> bytes:
    prompt = get_task("suggest").render(PromptContext(n=3, query=text), policy.tokenizer, budget=320).text
    body = {"model": "policy", "prompt": prompt, "max_tokens": _TOKENS, "ignore_eos": True}
    return load.http_post("/v1/completions", body | asdict(policy.decoding) | {"seed": random.getrandbits(31)})


def clicks_postgres() -> dict[str, float]:
    """Single-event posts against a bare loop committing the same rows, and the 99th percentile at 1,000 a second."""
    with fresh_database() as url, _directory() as data:
        with servers.nextquery(data, engine="off", database_url=url) as service:
            rate = asyncio.run(_click_rate(service.port))
            steady = asyncio.run(_steady_clicks(service.port))
        rows = _rows()
        with psycopg.connect(url.replace("+psycopg", "")) as connection:
            bare = _bare_rate(rows, connection, "%s")
    return {"click_rate_ratio_postgres": rate / bare, "click_p99_ms_at_1000_per_s": steady}


def clicks_sqlite() -> dict[str, float]:
    """As `clicks_postgres`, on the embedded database."""
    with _directory() as data:
        with servers.nextquery(data, engine="off") as service:
            rate = asyncio.run(_click_rate(service.port))
        connection = sqlite3.connect(data / "nextquery.db")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        bare = _bare_rate(_rows(), connection, "?")
    return {"click_rate_ratio_sqlite": rate / bare}


async def _click_rate(port: int) -> float:
    """Median of three: single-event posts a second, each acknowledged after its commit."""
    rates = []
    for _ in range(3):
        requests = [_click(token) for token in await _tokens(port, _CLICKS // 3)]
        found = await load.closed_loop(port, requests, concurrency=64)
        assert set(found.statuses) == {202}, found.statuses
        rates.append(found.per_s)
    return statistics.median(rates)


async def _steady_clicks(port: int) -> float:
    seconds = 15
    requests = [_click(token) for token in await _tokens(port, 1000 * seconds)]
    found = await load.open_loop(port, lambda number: requests[number], per_s=1000, seconds=seconds)
    assert set(found.statuses) == {202}, found.statuses
    return found.quantile_ms(0.99)


async def _tokens(port: int, count: int) -> list[str]:
    """Click tokens of `count` lists that were really served."""
    found = await load.closed_loop(port, [_recommend("kyoto")] * count, concurrency=16, keep_bodies=True)
    return [json.loads(body)["click_token"] for body in found.bodies]


def _click(token: str) -> bytes:
    return load.http_post("/click", {"click_token": token, "kind": "seen", "position": 0})


def _rows() -> list[tuple[Any, ...]]:
    now = time.strftime("%Y-%m-%d %H:%M:%S+00:00", time.gmtime())
    return [(uuid.uuid4().hex, 0, "seen", now, "default", "suggest", "default") for _ in range(_CLICKS // 3)]


def _bare_rate(rows: list[tuple[Any, ...]], connection: Any, mark: str) -> float:
    """Rows a second of the plainest durable loop: insert one row, commit, next; the median of three."""
    columns = "impression_id, position, kind, at, tenant, task, arm"
    insert = f"INSERT INTO clicks ({columns}) VALUES ({', '.join([mark] * 7)})"
    rates = []
    for _ in range(3):
        fresh = [(uuid.uuid4().hex, *row[1:]) for row in rows]
        started = time.perf_counter()
        for row in fresh:
            connection.execute(insert, row)
            connection.commit()
        rates.append(len(fresh) / (time.perf_counter() - started))
    print(f"  bare loop: {statistics.median(rates):.0f} rows/s", file=sys.stderr)
    return statistics.median(rates)


def ladder() -> dict[str, float]:
    """The lower rungs with the engine off, at 8 requests in flight, and the memory of the service after them."""
    with _directory() as data, servers.nextquery(data, engine="off") as service:
        requests = [_recommend(f"kyoto {number}") for number in range(3_000)]
        found = asyncio.run(load.closed_loop(service.port, requests, concurrency=8))
        assert set(found.statuses) == {200}, found.statuses
        return {"ladder_p99_ms": found.quantile_ms(0.99), "service_rss_mb": service.rss_mb()}


def second_start() -> dict[str, float]:
    """`make run` again: from the command to the first list that the model wrote."""
    with _directory() as data:
        with servers.nextquery(data, engine="vllm_local") as first:
            asyncio.run(_first_list(first.port))
        started = time.monotonic()
        with servers.nextquery(data, engine="vllm_local") as second:
            asyncio.run(_first_list(second.port))
            return {"second_start_s": time.monotonic() - started}


async def _first_list(port: int) -> None:
    found = await load.closed_loop(port, [_recommend("kyoto in autumn")], concurrency=1, keep_bodies=True)
    assert json.loads(found.bodies[0])["served_by"] == "model", found.bodies


def quality() -> dict[str, float]:
    """The starter policy on 500 queries whose entities its training never saw, sampled as it is served."""
    from tests.bench.quality import starter_quality

    return asyncio.run(starter_quality())


def _directory() -> "tempfile.TemporaryDirectory[str]":
    return _PathDirectory(prefix="nextquery-bench-")


class _PathDirectory(tempfile.TemporaryDirectory):  # type: ignore[type-arg]
    def __enter__(self) -> Path:  # type: ignore[override]
        return Path(super().__enter__())


CELLS = [
    Cell("throughput", throughput),
    Cell("clicks_postgres", clicks_postgres),
    Cell("clicks_sqlite", clicks_sqlite),
    Cell("ladder", ladder),
    Cell("second_start", second_start),
    Cell("quality", quality),
]

if __name__ == "__main__":
    sys.exit(main("serve", BARS, CELLS))
