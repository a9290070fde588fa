"""Reads what mining wrote: queries, entries of the dictionary, and pairs that an encoder may learn.

It knows nothing about how it was mined, nor about vectors.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from retrieval.dictionaries import MOST_NEXT, NextQuery
from retrieval.mining.weight import weight
from service.contract.artifact import verify
from service.contract.query_text import match_key

_ROWS = 100_000
_TRIPLES = """
    SELECT t.query_id, q.text, t.count, t.total, t.popularity, date_diff('day', t.last_day, $newest) AS age_days
    FROM triples AS t JOIN queries AS q ON q.query_id = t.next_id
    ORDER BY t.query_id < 0, t.query_id, t.next_id
"""
_PAIRS = """
    SELECT q.text, n.text FROM triples AS t
    JOIN queries AS q ON q.query_id = t.query_id AND q.shareable
    JOIN queries AS n ON n.query_id = t.next_id AND n.shareable
    ORDER BY t.query_id, t.next_id
"""


_HUBS = """
    SELECT DISTINCT q.text FROM triples AS t
    JOIN queries AS q ON q.query_id = t.next_id
    WHERE t.popularity > $least
"""
_BY_COUNT = """
    SELECT q.text, list(n.text ORDER BY t.count DESC, n.text)[1:$most]
    FROM triples AS t
    JOIN queries AS q ON q.query_id = t.query_id
    JOIN queries AS n ON n.query_id = t.next_id
    GROUP BY q.query_id, q.text
"""


@dataclass(frozen=True, slots=True)
class Mined:
    """The directory that `retrieval/mining/mine.py` writes."""

    directory: Path

    def queries(self) -> tuple[NDArray[np.int64], list[str]]:
        """Ids (N,), sorted, and texts of all queries of the triples."""
        table = pq.read_table(self.directory / "queries.parquet", columns=["query_id", "text"])
        return table["query_id"].to_numpy(), table["text"].to_pylist()

    def popular(self, most: int) -> list[str]:
        """The queries that most people typed, among those that may be shown."""
        sql = "SELECT text FROM queries WHERE shareable ORDER BY people DESC, text LIMIT $most"
        return [text for (text,) in self._rows(sql, most=most)]

    def hubs(self, share: float) -> set[str]:
        """Match keys of the queries that more than this share of all transitions lead to."""
        return {match_key(text) for (text,) in self._rows(_HUBS, least=share * self._counts["pair_count"])}

    def by_count(self) -> dict[str, list[str]]:
        """What followed each match key, the most frequent first: GQR's dictionary without any correction."""
        return {match_key(text): after for text, after in self._rows(_BY_COUNT, most=MOST_NEXT)}

    def shareable(self) -> dict[int, str]:
        """Texts by id that enough people typed to be shown to others, and for a model to learn from them."""
        table = pq.read_table(
            self.directory / "queries.parquet", columns=["query_id", "text"], filters=[("shareable", "=", True)]
        )
        return dict(zip(table["query_id"].to_pylist(), table["text"].to_pylist(), strict=True))

    def learnable_pairs(self) -> list[tuple[str, str]]:
        """A query and what followed it, both typed by enough people."""
        return [(query, after) for query, after in self._rows(_PAIRS)]

    def entries(self, *, damping: float, half_life_days: float) -> Iterator[tuple[int, list[NextQuery]]]:
        """Each query id with the `MOST_NEXT` best of what followed it, best first; ids in the order of unsigned numbers."""
        rows = self._weighted(max(1, self._counts["pair_count"]), damping, half_life_days)
        for query_id, group in groupby(rows, key=itemgetter(0)):
            best = sorted(group, key=lambda row: (-row[2], row[1]))[:MOST_NEXT]
            yield query_id, [NextQuery(text, value) for _, text, value in best]

    def _weighted(self, pair_count: int, damping: float, half_life_days: float) -> Iterator[tuple[int, str, float]]:
        with self._opened() as database:
            ((newest,),) = database.execute("SELECT max(last_day) FROM triples").fetchall()
            batches = database.sql(_TRIPLES, params={"newest": newest or date.min}).to_arrow_reader(_ROWS)
            for batch in batches:
                yield from self._weights_of(batch, pair_count, damping, half_life_days)

    @staticmethod
    def _weights_of(
        batch: Any, pair_count: int, damping: float, half_life_days: float
    ) -> Iterator[tuple[int, str, float]]:
        columns = {name: batch.column(name) for name in batch.schema.names}
        weights = weight(
            *(columns[name].to_numpy() for name in ("count", "total", "popularity", "age_days")),
            pair_count=pair_count,
            damping=damping,
            half_life_days=half_life_days,
        )
        yield from zip(columns["query_id"].to_pylist(), columns["text"].to_pylist(), weights.tolist(), strict=True)

    def _rows(self, sql: str, **given: Any) -> list[tuple[Any, ...]]:
        with self._opened() as database:
            rows: list[tuple[Any, ...]] = database.execute(sql, given or None).fetchall()
            return rows

    @contextmanager
    def _opened(self) -> Iterator[duckdb.DuckDBPyConnection]:
        with duckdb.connect() as database:
            for table in ("triples", "queries"):
                database.read_parquet(str(self.directory / f"{table}.parquet")).create_view(table)
            yield database

    @property
    def _counts(self) -> dict[str, int]:
        counts: dict[str, int] = verify(self.directory)["counts"]
        return counts
