"""Sums over the log by day, arm and bucket of units, so that no report reads the log again.

It knows nothing about experiments' results. A day that is over is added up once more the day after, for late clicks.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, Table, and_, case, delete, distinct, func, insert, select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from service.contract.database import database_errors, timeouts_of
from service.contract.tables import arm_days, arm_positions, clicks, exposures, impressions, rolled_days
from service.contract.types import ClickKind
from service.experiments.assignment import arms_in
from service.experiments.definitions import Experiment

_DAY = timedelta(days=1)
_LATE = timedelta(days=1)  # a click that comes later than that counts nowhere
_STAYS = timedelta(seconds=30)  # sums of a day that is not over are so old at most
_ROWS = 20_000  # of one transaction
_SLOWER = 20  # than other statements, by so much at most
_UNITS = {"user": impressions.c.user_id, "session": impressions.c.session_id}


async def roll_up(
    database: AsyncEngine, experiments: Iterable[Experiment], since: date, until: date, now: datetime | None = None
) -> list[date]:
    """Add up every day of [since, until) that needs it; returns those.

    `experiments`: those that ran then, whose units are counted.

    Raises:
        DatabaseError: The database is away.
    """
    now = now or datetime.now(UTC)
    known = {each.id: each for each in experiments}
    with database_errors("the log was added up"):
        async with database.connect() as connection:
            rolled = {row.day: row.at for row in await connection.execute(select(rolled_days))}
        needed = [day for day in _days(since, until) if _is_needed(day, rolled.get(day.isoformat()), now)]
        for day in needed:
            await _roll_up(database, known, day, now)
    return needed


def in_arm(experiment: str, arm: str) -> ColumnElement[bool]:
    """Condition: a list was shown in this arm, whatever other experiments it was in."""
    return (" " + impressions.c.arm + " ").contains(f" {experiment}={arm} ", autoescape=True)


def _days(since: date, until: date) -> Iterator[date]:
    return (since + k * _DAY for k in range((until - since).days))


def _is_needed(day: date, rolled: datetime | None, now: datetime) -> bool:
    over = datetime.combine(day, time(), UTC) + _DAY
    if now < over - _DAY:
        return False
    return rolled is None or (rolled < over + _LATE and now - rolled > (_STAYS if now < over + _LATE else timedelta()))


async def _roll_up(database: AsyncEngine, known: Mapping[str, Experiment], day: date, now: datetime) -> None:
    """Read first, then write what came out: a transaction of SQLite that writes lets nobody else write."""
    named = {"day": day.isoformat()}
    async with database.connect() as connection:
        await _take_time(connection)
        of_buckets = [{**named, **row._mapping} for row in await connection.execute(_buckets(day))]
        of_positions = [{**named, **row._mapping} for row in await connection.execute(_positions(day))]
        shown = [{**named, **row._mapping} for row in await connection.execute(_lengths(day))]
        exposed = [
            row
            for name, arm in sorted({pair for each in of_buckets for pair in arms_in(str(each["arm"]))})
            if name in known and known[name].unit in _UNITS
            for row in await _exposed(connection, known[name], arm, day)
        ]
    async with database.begin() as connection:
        for table in (arm_days, arm_positions, rolled_days):
            await connection.execute(delete(table).where(table.c.day == day.isoformat()))
        await _insert(connection, arm_days, of_buckets)
        await _insert(connection, arm_positions, list(_by_position(of_positions, shown)))
        await _insert(connection, rolled_days, [{**named, "at": now}])
    for begin in range(0, len(exposed), _ROWS):
        async with database.begin() as connection:
            await _insert(connection, exposures, exposed[begin : begin + _ROWS])


async def _take_time(connection: AsyncConnection) -> None:
    if connection.dialect.name == "postgresql":
        wait_ms = round(1000 * _SLOWER * timeouts_of(connection.engine).database_statement_s)
        await connection.execute(text(f"SET LOCAL statement_timeout = {wait_ms}"))


def _of_day(day: date, table: Table, longer: timedelta = timedelta()) -> Any:
    begin = datetime.combine(day, time(), UTC)
    return and_(table.c.at >= begin, table.c.at < begin + _DAY + longer)


def _buckets(day: date) -> Select[Any]:
    """Sums of the lists of a day by task, arm and bucket."""
    listed, event = impressions.c, clicks.c
    happened = (
        select(
            event.impression_id,
            func.max(case((event.kind == ClickKind.CLICK.value, 1), else_=0)).label("clicked"),
            func.max(case((event.kind == ClickKind.SEEN.value, 1), else_=0)).label("seen"),
        )
        .where(_of_day(day, clicks, _LATE))
        .group_by(event.impression_id)
        .subquery()
    )

    def total(column: Any, name: str) -> Any:
        return func.coalesce(func.sum(column), 0).label(name)

    bucket = func.coalesce(listed.unit_bucket, -1)
    return (
        select(
            listed.task,
            listed.arm,
            bucket.label("unit_bucket"),
            func.count().label("lists"),
            total(happened.c.clicked, "clicked"),
            total(happened.c.seen, "seen"),
            total(case((listed.degraded_reason.is_not(None), 1), else_=0), "degraded"),
            total(listed.n_repeated, "repeated"),
            total(listed.n_shown, "shown"),
            total(listed.n_chars, "chars"),
            total(listed.latency_ms, "latency_ms"),
        )
        .select_from(impressions.outerjoin(happened, happened.c.impression_id == listed.impression_id))
        .where(_of_day(day, impressions))
        .group_by(listed.task, listed.arm, bucket)
    )


def _positions(day: date) -> Select[Any]:
    """Clicks on the lists of a day by task, arm and position."""
    listed, event = impressions.c, clicks.c
    return (
        select(listed.task, listed.arm, event.position, func.count(distinct(event.impression_id)).label("clicked"))
        .select_from(clicks.join(impressions, listed.impression_id == event.impression_id))
        .where(_of_day(day, impressions), _of_day(day, clicks, _LATE))
        .where(event.kind == ClickKind.CLICK.value, event.position >= 1)
        .group_by(listed.task, listed.arm, event.position)
    )


def _lengths(day: date) -> Select[Any]:
    """How many lists of a day have how many queries, by task and arm."""
    listed = impressions.c
    return (
        select(listed.task, listed.arm, listed.n_shown, func.count().label("lists"))
        .where(_of_day(day, impressions))
        .group_by(listed.task, listed.arm, listed.n_shown)
    )


def _by_position(clicked: list[dict[str, Any]], lengths: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    of = {(row["task"], row["arm"], row["position"]): row["clicked"] for row in clicked}
    shown: dict[tuple[str, str, str, int], int] = {}
    for row in lengths:
        for position in range(1, row["n_shown"] + 1):
            key = (row["day"], row["task"], row["arm"], position)
            shown[key] = shown.get(key, 0) + row["lists"]
    for (day, task, arm, position), lists in shown.items():
        values = {"shown": lists, "clicked": of.get((task, arm, position), 0)}
        yield {"day": day, "task": task, "arm": arm, "position": position, **values}


async def _exposed(connection: AsyncConnection, experiment: Experiment, arm: str, day: date) -> list[dict[str, str]]:
    unit, mine = _UNITS[experiment.unit], in_arm(experiment.id, arm)
    query = select(unit.label("unit")).distinct().where(_of_day(day, impressions), mine, unit.is_not(None))
    same = {"experiment": experiment.id, "arm": arm}
    return [{**same, "unit": row.unit} for row in await connection.execute(query)]


async def _insert(connection: AsyncConnection, table: Table, rows: list[dict[str, Any]]) -> None:
    if not rows:
        return
    if table is exposures:
        dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
        await connection.execute(dialect.insert(table).on_conflict_do_nothing(), rows)
    else:
        await connection.execute(insert(table), rows)
