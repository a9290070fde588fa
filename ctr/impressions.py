"""Reads impressions and their clicks out of a snapshot, one row group at a time.

It knows nothing about tokens or training. A row that was erased or cannot be read is counted and left out.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from ctr.features import user_query
from service.contract.logged_context import from_log
from service.contract.query_text import one_line
from service.contract.registry import ANY_TASK
from service.contract.snapshot import Snapshot
from service.contract.types import ClickKind

LATE_DAYS = 7  # a click token is valid for so many days by default, so a click may come so much later
_COLUMNS = ["impression_id", "task", "arm", "user_id", "session_id", "query", "context", "candidates", "n_shown"]
_FETCHED = 2_000
_LONGEST = 255  # a position is one byte on disk; the longest list of a task has 12


@dataclass(frozen=True, slots=True)
class Impression:
    """One list as it was shown. `clicked`: positions that were clicked. `user_lists`: lists this person got that day."""

    impression_id: str
    task: str
    arm: str
    person: str
    user_lists: int
    user_query: str
    queries: tuple[str, ...]
    clicked: frozenset[int]


class Reader:
    """Reads one task of a snapshot, or every task for "*". `skipped`: rows left out so far, by reason."""

    def __init__(self, snapshot: Snapshot, task: str) -> None:
        self.skipped: dict[str, int] = defaultdict(int)
        self._snapshot = snapshot
        self._task = task

    def days(self) -> dict[date, int]:
        """Lists of the task that showed something, by UTC day, oldest first; days without any are left out."""
        found = {}
        for day, path in self._snapshot.files("impressions").items():
            table = pq.read_table(path, columns=["task", "n_shown"])
            found[day] = table.filter(self._wanted(table)).num_rows
        return {day: lists for day, lists in found.items() if lists}

    def read(self, day: date) -> Iterator[Impression]:
        """The impressions of one UTC day with their clicks, whichever day those came on."""
        clicked = self._clicks(day)
        users = self._lists_of_users(day)
        with pq.ParquetFile(self._snapshot.files("impressions")[day]) as file:
            for batch in file.iter_batches(batch_size=_FETCHED, columns=_COLUMNS):
                for row in batch.filter(self._wanted(batch)).to_pylist():
                    impression = self._impression(row, clicked, users)
                    if impression is not None:
                        yield impression

    def _wanted(self, rows: Any) -> Any:
        shown = pc.greater(rows["n_shown"], 0)
        return shown if self._task == ANY_TASK else pc.and_(shown, pc.equal(rows["task"], self._task))

    def _clicks(self, day: date) -> dict[str, set[int]]:
        found: dict[str, set[int]] = defaultdict(set)
        last = day + timedelta(days=LATE_DAYS)
        paths = [path for at, path in self._snapshot.files("clicks").items() if day <= at <= last]
        for path in paths:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(columns=["impression_id", "position", "kind"]):
                    clicks = batch.filter(pc.equal(batch["kind"], ClickKind.CLICK.value))
                    ids, positions = clicks["impression_id"].to_pylist(), clicks["position"].to_pylist()
                    for impression_id, position in zip(ids, positions, strict=True):
                        found[impression_id].add(position)
        return found

    def _lists_of_users(self, day: date) -> dict[str, int]:
        path = self._snapshot.files("impressions")[day]
        table = pq.read_table(path, columns=["user_id", "task", "n_shown"])
        counts = pc.value_counts(table.filter(self._wanted(table))["user_id"].drop_null()).to_pylist()
        return {each["values"]: each["counts"] for each in counts}

    def _impression(
        self, row: dict[str, Any], clicked: Mapping[str, set[int]], users: Mapping[str, int]
    ) -> Impression | None:
        try:
            queries = _shown(row)
            context = from_log(json.loads(row["context"]), query=row["query"], n=row["n_shown"])
        except (ValueError, TypeError, KeyError, AttributeError):
            self.skipped["unreadable"] += 1
            return None
        positions = frozenset(clicked.get(row["impression_id"], ()))
        return Impression(
            impression_id=row["impression_id"],
            task=row["task"],
            arm=row["arm"],
            person=row["user_id"] or row["session_id"] or row["impression_id"],
            user_lists=users.get(row["user_id"], 1),
            user_query=user_query(context),
            queries=queries,
            clicked=positions & frozenset(range(1, len(queries) + 1)),
        )


def _shown(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Texts of the list in order. Raises ValueError where one is missing, as after an erasure."""
    candidates = json.loads(row["candidates"])
    queries = tuple(one_line(each["text"]) for each in sorted(candidates, key=lambda each: int(each["position"])))
    if not (len(queries) == row["n_shown"] <= _LONGEST and all(queries)):
        raise ValueError("a query of the list is missing")
    if [each["position"] for each in candidates] != list(range(1, len(queries) + 1)):
        raise ValueError("positions are not 1..N")
    return queries
