"""Splits a log for evaluation: people's queries to learn from, and sessions held out to be predicted.

It knows nothing about what is learnt.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import duckdb

from retrieval.mining.day import SearchLog

_STREAMS = """
    CREATE OR REPLACE TABLE streams AS
    SELECT user_id, session_id,
        md5_number_lower(string_agg(CAST(query_id AS VARCHAR), ' ' ORDER BY "at", search_id) || '{seed}') AS sequence
    FROM read_parquet({files})
    WHERE origin IN ('typed', 'import') AND coalesce(user_id, session_id) IS NOT NULL
    GROUP BY user_id, session_id
"""
_KEPT = """
    COPY (
        SELECT log.* FROM read_parquet('{file}') AS log
        ANTI JOIN (SELECT * FROM streams WHERE sequence % {one_in} = 0) AS held_out
        ON log.user_id IS NOT DISTINCT FROM held_out.user_id AND log.session_id IS NOT DISTINCT FROM held_out.session_id
        ORDER BY log."at", log.search_id
    ) TO '{output}' (FORMAT parquet)
"""
_HELD_OUT = """
    WITH chosen AS (
        SELECT sequence, min_by(struct_pack(u := user_id, s := session_id), coalesce(user_id, '') || coalesce(session_id, ''))
            AS who
        FROM streams WHERE sequence % {one_in} = 0 GROUP BY sequence ORDER BY md5(CAST(sequence AS VARCHAR)) LIMIT {most}
    )
    SELECT chosen.sequence, epoch_us(log."at"), log.match_key
    FROM read_parquet({files}) AS log JOIN chosen
    ON log.user_id IS NOT DISTINCT FROM chosen.who.u AND log.session_id IS NOT DISTINCT FROM chosen.who.s
    WHERE log.origin IN ('typed', 'import')
    ORDER BY chosen.sequence, log."at", log.search_id
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnLog:
    """The part of a log that is learnt from; mining reads it as it reads a snapshot."""

    by_day: Mapping[date, Path]

    def files(self, table: str) -> Mapping[date, Path]:
        """The files of searches by day."""
        return self.by_day if table == "searches" else {}

    def sha256(self, path: Path) -> str:
        """SHA-256 of one of them."""
        return hashlib.sha256(path.read_bytes()).hexdigest()


def split_log(
    log: SearchLog, directory: Path, *, one_in: int, most: int, silence_minutes: int, seed: int = 0
) -> tuple[LearnLog, list[list[str]]]:
    """The log without the held-out people, written to `directory`, and the held-out sessions as match keys.

    People (sessions where nobody is known) whose whole sequences of queries are equal go to the same side, and of the
    held-out ones only one of them is kept, so that no exact duplicate is met again. One in `one_in` is held out, `most`
    of them at most. Sessions are cut as mining cuts them, without immediate repeats, and have two queries or more.
    """
    files = dict(sorted(log.files("searches").items()))
    directory.mkdir(parents=True, exist_ok=True)
    if not files:
        return LearnLog(by_day={}), []
    with duckdb.connect() as connection:
        paths = "[" + ", ".join(f"'{_quoted(path)}'" for path in files.values()) + "]"
        connection.execute(_STREAMS.format(files=paths, seed=seed))
        kept = {day: directory / f"{day}.parquet" for day in files}
        for day, path in files.items():
            connection.execute(_KEPT.format(file=_quoted(path), one_in=one_in, output=_quoted(kept[day])))
        rows = connection.execute(_HELD_OUT.format(files=paths, one_in=one_in, most=most)).fetchall()
    return LearnLog(by_day=kept), _sessions(rows, silence_minutes * 60_000_000)


def _sessions(rows: list[tuple[int, int, str]], silence_us: int) -> list[list[str]]:
    sessions: list[list[str]] = []
    for _, stream in groupby(rows, key=itemgetter(0)):
        last_us = None
        for _, at_us, key in stream:
            if last_us is None or at_us - last_us > silence_us:
                sessions.append([])
            last_us = at_us
            if not sessions[-1] or sessions[-1][-1] != key:
                sessions[-1].append(key)
    return [session for session in sessions if len(session) > 1]


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")
