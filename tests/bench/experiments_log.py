"""How long a report takes over a log of a million lists in SQLite, and of ten million in PostgreSQL, sums included.

It knows nothing about statistics. The log is made up by the database itself.
"""

import asyncio
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import psycopg
from sqlalchemy import make_url, text, update

from service.contract import database
from service.contract.settings import Timeouts
from service.contract.tables import experiments
from service.experiments import store
from service.experiments.definitions import Arm, Experiment
from service.experiments.report import make_report
from tests.bench.report import Cell
from tests.conftest import _postgresql_server

_DAYS = 7
_STARTED = datetime(2026, 11, 1, tzinfo=UTC)
_NOW = datetime(2026, 11, 20, tzinfo=UTC)
_TIMES = Timeouts(database_statement_s=900)
# A list every `step` seconds, of one of `people` people, half of them in each arm; one in five is clicked, all are seen.
_IMPRESSIONS = """
INSERT INTO impressions (impression_id, at, tenant, task, user_id, context, prompt_fingerprint, prompt_tokens, arm, sampling,
                         candidates, texts, n_shown, served_by, timings, unit_bucket, latency_ms, n_repeated, n_chars)
SELECT {id}, {at}, 'default', 'suggest', 'u' || (i % {people}), '{{}}', '', 100,
       CASE WHEN i % {people} % 2 = 0 THEN 'big=control' ELSE 'big=new' END, '{{}}', '[]', '{{}}', 3, 'model', '{{}}',
       i % {people} % 1000, 50 + i % 100, 0, 60
FROM {numbers}
"""
_CLICKS = """
INSERT INTO clicks (impression_id, position, kind, at, tenant, task, arm)
SELECT {id}, 1 + i % 3, 'click', {at}, 'default', 'suggest',
       CASE WHEN i % {people} % 2 = 0 THEN 'big=control' ELSE 'big=new' END
FROM {numbers} WHERE (i % 100 * 79) % 100 < 20
"""


def report_of_log(of: tuple[str, ...]) -> list[Cell]:
    """Both cells."""
    mine = (*of, "tests/bench/experiments_log.py")
    return [
        Cell("report_sqlite", partial(_measured, "sqlite", 1_000_000, "report_s_sqlite_1m"), of=mine, about_s=90),
        Cell(
            "report_postgresql",
            partial(_measured, "postgresql", 10_000_000, "report_s_postgresql_10m"),
            of=mine,
            about_s=500,
        ),
    ]


def _measured(kind: str, lists: int, figure: str) -> dict[str, float]:
    with _database(kind) as url:
        return {figure: asyncio.run(_report_s(url, kind, lists))}


@contextmanager
def _database(kind: str) -> Iterator[str]:
    if kind == "sqlite":
        with tempfile.TemporaryDirectory(prefix="nextquery-report-") as place:
            yield f"sqlite+aiosqlite:///{Path(place) / 'nextquery.db'}"
        return
    server, name = _postgresql_server(), f"nextquery_bench_{uuid.uuid4().hex[:12]}"
    if server is None:
        raise SystemExit("PostgreSQL does not answer: start it on 127.0.0.1:5432, or set NEXTQUERY_TEST_POSTGRES.")
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    try:
        url = make_url(server).set(drivername="postgresql+psycopg", database=name)
        yield url.render_as_string(hide_password=False)
    finally:
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


async def _report_s(url: str, kind: str, lists: int) -> float:
    """Seconds of the first report, which adds the whole log up; the second one, which need not, is told on stderr."""
    await asyncio.to_thread(database.upgrade, url, _TIMES)
    engine = database.create(url, _TIMES)
    try:
        await _lay(engine, kind, lists)
        arms = [Arm(name="control", weight=0.5), Arm(name="new", weight=0.5, temperature=1.0)]
        await store.start(engine, Experiment(id="big", arms=arms))
        async with engine.begin() as connection:
            await connection.execute(update(experiments).values(started_at=_STARTED))
        times = []
        for _ in range(2):
            began = time.monotonic()
            report = await make_report(engine, "big", _NOW)
            times.append(time.monotonic() - began)
        if sum(arm.lists for arm in report.arms) != lists:
            raise RuntimeError("The report did not count every list.")
        print(f"  {kind}: {times[0]:.2f} s, then {times[1]:.2f} s", file=sys.stderr)
        return times[0]
    finally:
        await engine.dispose()


async def _lay(engine: database.AsyncEngine, kind: str, lists: int) -> None:
    step = timedelta(days=_DAYS).total_seconds() / lists
    if kind == "sqlite":
        numbers = (
            f"(WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {lists - 1}) SELECT i FROM n)"
        )
        at = f"strftime('%Y-%m-%d %H:%M:%f', {_STARTED.timestamp():.0f} + i * {step}, 'unixepoch') || '000'"
        name = "printf('%032x', i)"
    else:
        numbers = f"generate_series(0, {lists - 1}) AS n(i)"
        at = f"to_timestamp({_STARTED.timestamp():.0f} + i * {step})"
        name = "lpad(to_hex(i), 32, '0')"
    same = {"id": name, "at": at, "people": lists // 10, "numbers": numbers}
    async with engine.begin() as connection:
        for statement in (_IMPRESSIONS, _CLICKS):
            await connection.execute(text(statement.format(**same).replace(":", "\\:")))
        if kind == "postgresql":
            await connection.execute(text("ANALYZE impressions, clicks"))
