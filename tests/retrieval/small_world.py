"""A small log in which people ask about rice, pasta and so on, and a build of it; for tests.

It knows nothing about how builds are made inside.
"""

import itertools
from dataclasses import replace
from pathlib import Path

from retrieval.build import Build, BuildConfig, build
from retrieval.encoder import default_encoder
from retrieval.mining.duckdb_engine import DuckDBEngine
from retrieval.mining.rules import MiningRules
from service.contract.snapshot import Snapshot
from tests.retrieval.mining.logs import Search, snapshot, walk

TOPICS = ("rice", "pasta", "bread", "soup", "tea", "cake")
SECRET = "call bob at his new address"  # one person typed it


def small_log() -> list[Search]:
    """Thirty people; each asks `how to cook T`, then `T calories`, then `T recipe`, about two topics."""
    rows: list[Search] = []
    for number, (one, other) in enumerate(itertools.islice(itertools.permutations(TOPICS, 2), 30)):
        person = f"user {number}"
        for minute, topic in ((0, one), (100, other)):
            rows += walk(f"how to cook {topic}", f"{topic} calories", f"{topic} recipe", people=[person], minute=minute)
    rows += walk("how to cook rice", SECRET, people=["user 1"], minute=300)
    rows += walk(SECRET, "rice recipe", people=["user 1"], minute=400)
    return [replace(row, search_id=f"{number:06d}") for number, row in enumerate(rows)]


def small_snapshot(directory: Path) -> Snapshot:
    """A snapshot of the small log."""
    return snapshot(directory, small_log())


def small_build(place: Path, *, log: Snapshot | None = None, k: int = 3, damping: float = 0.1) -> Build:
    """A build of the small log under `place`, with the encoder that is installed."""
    config = BuildConfig(work=place / "work", rules=MiningRules(k=k), encoder=default_encoder(), damping=damping)
    engine = DuckDBEngine(threads=1)
    try:
        return build(log or small_snapshot(place / "snapshot"), place / "cor", config, engine, quiet=True)
    finally:
        engine.close()
