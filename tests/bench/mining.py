"""The figures of mining: against the bare DuckDB query, and how time and memory grow from one to ten million searches.

It knows the miner by `mine` only; every measured run is a process of its own.
"""

import json
import math
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq

from retrieval.mining.duckdb_engine import DuckDBEngine
from retrieval.mining.mine import mine
from retrieval.mining.rules import MiningRules
from service.contract.artifact import seal
from service.contract.snapshot import open_snapshot
from tests.bench.report import ROOT

_FIRST_DAY = date(2026, 11, 10)
_DAYS = 10
_ROUNDS = 5

# Sessions of four queries, 20 to 420 seconds apart, ten facets of one topic; topics are log-uniform, which is Zipf's law
# of exponent 1; about 4 % have no user, 5 % no session. One query in ten is typed in another form.
_SEARCHES = """
    SELECT
        lpad(to_hex(us // 1000), 12, '0') || left(md5(CAST(row AS VARCHAR)), 20) AS search_id,
        CAST(make_timestamp(us) AS TIMESTAMPTZ) AS "at",
        CASE WHEN dice3 % 25 > 0 THEN 'user-' || dice3 // 32 % {users} END AS user_id,
        CASE WHEN dice3 % 19 > 0 THEN lpad(to_hex(hash(session, 5)), 16, '0') || '-session-' || session END AS session_id,
        CASE WHEN dice4 % 10 > 0 THEN 'how to cook ' ELSE 'How to cook ' END || text AS query,
        'how to cook ' || text AS match_key,
        'en' AS locale,
        'typed' AS origin,
        CAST(NULL AS VARCHAR) AS impression_id,
        CAST(hash(text) >> 1 AS BIGINT) AS query_id
    FROM (
        SELECT *, CAST(floor(pow({topics}, dice1)) AS BIGINT) * 10 + dice4 // 16 % 10 AS text
        FROM (
            SELECT
                row, row // 4 AS session,
                hash(row // 4, 1) % 1000003 / 1000003 AS dice1, hash(row // 4, 3) AS dice3, hash(row, 4) AS dice4,
                {midnight_us} - CASE WHEN row < {first} THEN 86400000000 ELSE 0 END
                    + CAST(hash(row // 4, 2) % 86400000000 + row % 4 * (20000000 + hash(row // 4, 6) % 400000000) AS BIGINT)
                    AS us
            FROM range({before}, {last}) AS rows(row)
        )
        WHERE us >= {midnight_us} AND us < {midnight_us} + 86400000000
    )
    ORDER BY us, search_id
"""

_BARE = """
    COPY (
        SELECT query_id, next_id, count(*) AS count, count(DISTINCT user_id) AS people
        FROM (
            SELECT
                query_id, user_id, lead(query_id) OVER session AS next_id,
                lead(log."at") OVER session - log."at" AS silence
            FROM read_parquet('{log}/searches/*.parquet') AS log
            WHERE user_id IS NOT NULL OR session_id IS NOT NULL
            WINDOW session AS (PARTITION BY user_id, session_id ORDER BY log."at")
        )
        WHERE next_id <> query_id AND silence <= INTERVAL 30 MINUTES
        GROUP BY query_id, next_id
    ) TO '{output}' (FORMAT parquet)
"""


def figures() -> dict[str, float]:
    """Time of mining ten million searches / time of the bare query; exponent of time, and ratio of peak memory, 1 to 10 M.

    The bare query does the same join and count over the same files with DuckDB's defaults. It groups by the 64-bit ids,
    as the miner does, which is about a fifth quicker than by texts.
    """
    with tempfile.TemporaryDirectory(prefix="nextquery-mining-") as name:
        small, large = (_generated(rows, Path(name) / str(rows)) for rows in (1_000_000, 10_000_000))
        runs: dict[str, list[Mapping[str, float]]] = {"small": [], "ours": [], "bare": []}
        for number in range(_ROUNDS):
            runs["small"] += [_run("ours", small), _run("ours", small)]
            for side in sorted(("ours", "bare"), reverse=number % 2 == 0):
                runs[side].append(_run(side, large))
    assert len({run["pairs"] for run in runs["ours"] + runs["bare"]}) == 1, "Both sides must have found the same pairs."
    seconds = {side: statistics.median(run["seconds"] for run in found) for side, found in runs.items()}
    peak = {side: statistics.median(run["peak_mb"] for run in found) for side, found in runs.items()}
    return {
        "mining_ratio": seconds["ours"] / seconds["bare"],
        "mining_exponent": math.log10(seconds["ours"] / seconds["small"]),
        "mining_memory_ratio": peak["ours"] / peak["small"],
    }


def _generated(rows: int, directory: Path) -> Path:
    """A snapshot of about `rows` searches on ten days; the same one every time."""
    (directory / "searches").mkdir(parents=True)
    with duckdb.connect(config={"temp_directory": str(directory / "spill")}) as database:
        database.execute("SET enable_progress_bar = false")
        counts = {day.isoformat(): _generate(database, rows, number, directory) for number, day in enumerate(_days())}
    window = {"from": f"{_FIRST_DAY}T00:00:00+00:00", "to": f"{_FIRST_DAY + timedelta(_DAYS)}T00:00:00+00:00"}
    seal(directory, {"kind": "snapshot", **window, "tenant": "default", "counts": {"searches": counts}})
    return directory


def _days() -> list[date]:
    return [_FIRST_DAY + timedelta(number) for number in range(_DAYS)]


def _generate(database: duckdb.DuckDBPyConnection, rows: int, number: int, directory: Path) -> int:
    """Write one day: its own sessions, and the rest of those that began on the day before."""
    first, a_day = rows // _DAYS * number, rows // _DAYS
    query = _SEARCHES.format(
        users=rows // 50,
        topics=rows // 100,
        midnight_us=(_days()[number] - date(1970, 1, 1)) // timedelta(microseconds=1),
        before=max(0, first - a_day),
        first=first,
        last=first + a_day,
    )
    path = directory / "searches" / f"{_days()[number].isoformat()}.parquet"
    database.sql(query).write_parquet(str(path), compression="zstd", row_group_size=100_000)
    return int(pq.read_metadata(path).num_rows)


def _run(side: str, log: Path) -> Mapping[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.mining", side, str(log)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    found: Mapping[str, float] = json.loads(done.stdout)
    print(f"  {log.name} {side}: {found['seconds']:.1f} s, {found['peak_mb']:.0f} MB", file=sys.stderr, flush=True)
    return found


def _measure(side: str, log: Path) -> Mapping[str, Any]:
    with tempfile.TemporaryDirectory(dir=log.parent) as output:
        started = time.perf_counter()
        pairs = {"ours": _mine, "bare": _query}[side](log, Path(output))
        return {"seconds": time.perf_counter() - started, "peak_mb": _peak_mb(), "pairs": pairs}


def _mine(log: Path, output: Path) -> int:
    engine = DuckDBEngine(output)
    report = mine(open_snapshot(log), output / "triples", MiningRules(), engine=engine)
    engine.close()
    return report.pairs


def _query(log: Path, output: Path) -> int:
    with duckdb.connect() as database:
        database.execute(_BARE.format(log=log, output=output / "pairs.parquet"))
    return int(pq.read_metadata(output / "pairs.parquet").num_rows)


def _peak_mb() -> float:
    """Peak memory of this process. ru_maxrss of Linux would count what the parent held before exec, too."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # macOS, in bytes


if __name__ == "__main__":
    print(json.dumps(_measure(sys.argv[1], Path(sys.argv[2]))))
