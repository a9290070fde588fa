"""Benchmark of retrieval: quality on real sessions, speed and size with a million queries, and mining.

    python -m tests.bench.retrieval --json

It knows retrieval by its door, its build and its miner.
"""

import csv
import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from retrieval.build import BuildConfig, evaluate_on
from retrieval.evaluate import Evaluation
from retrieval.mining.duckdb_engine import DuckDBEngine
from retrieval.mining.rules import MiningRules
from service.contract.snapshot import open_snapshot
from tests.bench import mining, retrieval_store
from tests.bench.command import nextquery
from tests.bench.report import ROOT, Bar, Cell, main

DATA = ROOT.parent / "shared" / "data" / "sessions.jsonl"
_ALL = 1_000_000  # people held out at most: all of them
_SINCE = datetime(2026, 11, 1, tzinfo=UTC)

BARS = [
    Bar("hit10_gain_nonhub", "share", ">", 0),
    Bar("hit10_gain_nonhub_low", "share", ">", 0),
    Bar("hit10_gain_nonhub_high", "share"),
    Bar("hit10_unseen", "share", ">=", 0.08),
    Bar("coverage", "share", ">=", 0.95),
    Bar("hit10", "share"),
    Bar("hit10_frequency", "share"),
    Bar("hit10_neighbours", "share"),
    Bar("hit10_popularity", "share"),
    Bar("coverage_frequency", "share"),
    Bar("hit10_k5", "share"),
    Bar("hit10_frequency_k5", "share"),
    Bar("coverage_k5", "share"),
    Bar("exact_p99_ms_memory", "ms", "<=", 1),
    Bar("exact_p99_ms_redis", "ms", "<=", 2),
    Bar("semantic_p99_ms", "ms", "<=", 15),
    Bar("index_recall10", "share", ">=", 0.95),
    Bar("index_p99_ms", "ms", "<=", 2),
    Bar("bytes_per_query", "bytes", "<=", 1024),
    Bar("redis_bytes_per_query", "bytes"),
    Bar("mining_ratio", "ratio", "<=", 2),
    Bar("mining_exponent", "", "<=", 1.1),
    Bar("mining_memory_ratio", "ratio", "<=", 1.5),
]


def quality() -> dict[str, float]:
    """Figures on `sessions.jsonl`: nine sessions in ten are learnt from, each session as one person. k = 1, then 5."""
    with tempfile.TemporaryDirectory(prefix="nextquery-quality-") as name:
        place = Path(name)
        snapshot = _imported(place)
        config = BuildConfig(work=place / "work", rules=MiningRules(k=1), test_people=_ALL)
        one = _evaluated(snapshot, config)
        five = _evaluated(snapshot, replace(config, rules=MiningRules(k=5)))
    gain, low, high = one.gain_nonhub
    ours, frequency = one.methods["cor"], one.methods["frequency"]
    found: dict[str, float | None] = {
        "hit10_gain_nonhub": gain,
        "hit10_gain_nonhub_low": low,
        "hit10_gain_nonhub_high": high,
        "hit10_unseen": ours["hit10_unseen"],
        "coverage": ours["coverage"],
        "hit10": ours["hit10"],
        "hit10_frequency": frequency["hit10"],
        "hit10_neighbours": one.methods["neighbours"]["hit10"],
        "hit10_popularity": one.methods["popularity"]["hit10"],
        "coverage_frequency": frequency["coverage"],
        "hit10_k5": five.methods["cor"]["hit10"],
        "hit10_frequency_k5": five.methods["frequency"]["hit10"],
        "coverage_k5": five.methods["cor"]["coverage"],
    }
    return {name: value for name, value in found.items() if value is not None}


def _imported(place: Path) -> Path:
    """A snapshot of the sessions, by the commands that a user has."""
    with (place / "sessions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["query", "session_id"])
        for line in DATA.read_text(encoding="utf-8").splitlines():
            session = json.loads(line)
            writer.writerows([query, session["session"]] for query in session["queries"])
    nextquery(place, "db", "upgrade")
    how = ["--format", "csv", "--sessions-are-people", "--starting-at", _SINCE.date().isoformat()]
    nextquery(place, "import", str(place / "sessions.csv"), *how)
    nextquery(place, "snapshot", "--from", "2026-11-01", "--to", "2026-11-03", "--output", str(place / "snapshot"))
    return place / "snapshot"


def _evaluated(snapshot: Path, config: BuildConfig) -> Evaluation:
    engine = DuckDBEngine()
    try:
        found = evaluate_on(open_snapshot(snapshot), config, engine)
    finally:
        engine.close()
    _tell(found.methods, config.rules.k)
    return found


def _tell(methods: Mapping[str, Mapping[str, float | None]], k: int) -> None:
    for method, figures in methods.items():
        print(f"  k = {k} {method}: " + " ".join(f"{n} {v}" for n, v in figures.items()), file=sys.stderr)


def _cells() -> list[Cell]:
    cells: list[Any] = [Cell("store", retrieval_store.figures), Cell("mining", mining.figures)]
    return [Cell("quality", quality), *cells] if DATA.is_file() else cells


if __name__ == "__main__":
    raise SystemExit(main("retrieval", BARS, _cells()))
