"""Small logs of lists and clicks as snapshots, for tests: people click by a rule that is known.

It knows nothing about how a predictor is trained. No database is needed.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from service.contract.artifact import seal
from service.contract.log_files import file_name, schema_of
from service.contract.snapshot import Snapshot, open_snapshot
from service.contract.tables import clicks, impressions, searches

FIRST_DAY = date(2026, 11, 1)
TOPICS = ("rice", "pasta", "bread", "soup", "tea", "cake", "kyoto", "laptop")
ENDINGS = {"recipe": 1.0, "price": -0.5, "history": -1.5, "near me": 0.3, "calories": 0.0, "video": -0.8}


@dataclass(frozen=True)
class Shown:
    """One list: when, what, and which positions were clicked, `click_day` days later."""

    impression_id: str
    day: int
    user_query: str | None
    queries: tuple[str, ...]
    clicked: tuple[int, ...] = ()
    click_days_later: int = 0
    user_id: str | None = None
    task: str = "suggest"
    arm: str = "control"
    session: tuple[str, ...] = ()
    replaced: dict[str, Any] = field(default_factory=dict)

    @property
    def at(self) -> datetime:
        return datetime.combine(FIRST_DAY + timedelta(days=self.day), time(12), UTC)


def small_log(days: int, lists_per_day: int, *, seed: int = 0, queries: int = 3) -> list[Shown]:
    """Lists whose clicks follow `true_p`: by ending, by position, and less after a query on another topic."""
    random = np.random.default_rng(seed)
    log = []
    for number in range(days * lists_per_day):
        topic = str(random.choice(TOPICS))
        shown = tuple(
            f"{topic if random.random() < 0.7 else random.choice(TOPICS)} {random.choice(list(ENDINGS))}"
            for _ in range(queries)
        )
        p = true_p(topic, shown)
        clicked = tuple(int(k) for k in np.flatnonzero(random.random(queries) < p) + 1)
        log.append(
            Shown(
                impression_id=f"{number:012x}",
                day=number // lists_per_day,
                user_query=f"about {topic}",
                queries=shown,
                clicked=clicked,
                user_id=f"user {random.integers(0, 200)}",
                arm=str(random.choice(["control", "treatment"])),
            )
        )
    return log


def true_p(topic: str, shown: Sequence[str]) -> NDArray[np.float64]:
    """P(click) of each query of a list under the rule of `small_log`, (N,)."""
    endings = np.array([ENDINGS[text.split(" ", 1)[1]] for text in shown])
    fits = np.array([text.startswith(topic) for text in shown])
    logits = -1.6 + 1.2 * endings + np.where(fits, 1.0, -1.5) - 0.5 * np.arange(len(shown))
    return np.asarray(1 / (1 + np.exp(-logits)), np.float64)


def snapshot_of(directory: Path, log: Iterable[Shown]) -> Snapshot:
    """A sealed snapshot of the lists and their clicks, as `nextquery snapshot` would write it."""
    lists = sorted(log, key=lambda shown: (shown.day, shown.impression_id))
    events = [event for shown in lists for event in _clicks(shown)]
    counts = {
        "searches": {},
        "impressions": _write(directory, impressions, [(s.at, _impression(s)) for s in lists]),
        "clicks": _write(directory, clicks, sorted(events, key=lambda event: event[0])),
    }
    assert searches.name in counts
    last = max(shown.day for shown in lists) + 10
    window = (datetime.combine(FIRST_DAY + timedelta(days=d), time(), UTC).isoformat() for d in (0, last))
    since, until = window
    (directory / "columns.json").write_text("{}")
    seal(directory, {"kind": "snapshot", "from": since, "to": until, "tenant": "default", "counts": counts})
    return open_snapshot(directory)


def _impression(shown: Shown) -> dict[str, Any]:
    context = {"session": shown.session, "history": [], "answer": None, "documents": [], "co_queries": []}
    candidates = [
        {"text": text, "position": k, "source": "model", "logprob": None, "score": None, "propensity": None}
        for k, text in enumerate(shown.queries, 1)
    ]
    row = {
        "impression_id": shown.impression_id,
        "at": shown.at,
        "task": shown.task,
        "user_id": shown.user_id,
        "query": shown.user_query,
        "context": json.dumps(context),
        "prompt_fingerprint": "",
        "prompt_tokens": 0,
        "arm": shown.arm,
        "sampling": "{}",
        "candidates": json.dumps(candidates),
        "texts": "{}",
        "n_shown": len(shown.queries),
        "served_by": "model",
        "timings": "{}",
    }
    return {**row, **shown.replaced}


def _clicks(shown: Shown) -> list[tuple[datetime, dict[str, Any]]]:
    at = shown.at + timedelta(days=shown.click_days_later, minutes=1)
    facts = {"impression_id": shown.impression_id, "at": at, "task": shown.task, "arm": shown.arm}
    events = [(at, {**facts, "position": 0, "kind": "seen"})]
    return events + [(at, {**facts, "position": k, "kind": "click"}) for k in shown.clicked]


def _write(directory: Path, table: Any, rows: Sequence[tuple[datetime, dict[str, Any]]]) -> dict[str, int]:
    counts = {}
    for day, group in groupby(rows, key=lambda row: row[0].date()):
        of_day = [row for _, row in group]
        path = directory / file_name(table.name, day)
        path.parent.mkdir(parents=True, exist_ok=True)
        schema = schema_of(table)
        columns = {name: pa.array([row.get(name) for row in of_day], schema.field(name).type) for name in schema.names}
        pq.write_table(pa.table(columns, schema=schema), path)
        counts[day.isoformat()] = len(of_day)
    return counts
