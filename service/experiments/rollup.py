"""Sums over the log by day, arm and bucket of units, so that no report reads the log again.

It knows nothing about experiments' results. A day that is over is added up once more the day after, for late clicks.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Select,
    Subquery,
    Table,
    and_,
    case,
    delete,
    func,
    insert,
    literal,
    select,
    text,
)
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
_SLOWER = 20  # than other statements, by so much at most
_DAYS_AT_ONCE = 7  # whose units are counted in one statement: most come again, and are looked for once
_KEY = ("day", "task", "arm", "unit_bucket")
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
        for begin in range(0, len(needed), _DAYS_AT_ONCE):
            await _roll_up(database, known, needed[begin : begin + _DAYS_AT_ONCE], now)
    return needed


def in_arm(experiment: str, arm: str) -> ColumnElement[bool]:
    """Condition: a list was shown in this arm, whatever other experiments it was in."""
    return (" " + impressions.c.arm + " ").contains(f" {experiment}={arm} ", autoescape=True)


def happened_to_lists(condition: ColumnElement[bool]) -> Subquery:
    """Of each list with events under `condition`: whether it was clicked, and whether it was seen, each 0 or 1."""
    event = clicks.c

    def was(kind: ClickKind) -> ColumnElement[int]:
        return func.max(case((event.kind == kind.value, 1), else_=0))

    return (
        select(event.impression_id, was(ClickKind.CLICK).label("clicked"), was(ClickKind.SEEN).label("seen"))
        .where(condition)
        .group_by(event.impression_id)
        .subquery()
    )


def _days(since: date, until: date) -> Iterator[date]:
    return (since + k * _DAY for k in range((until - since).days))


def _is_needed(day: date, rolled: datetime | None, now: datetime) -> bool:
    over = datetime.combine(day, time(), UTC) + _DAY
    if now < over - _DAY:
        return False
    return rolled is None or (rolled < over + _LATE and now - rolled > (_STAYS if now < over + _LATE else timedelta()))


async def _roll_up(database: AsyncEngine, known: Mapping[str, Experiment], days: Sequence[date], now: datetime) -> None:
    """Add up `days`, count their units, and only then note that both is done: who is killed meanwhile does it again."""
    logged: set[str] = set()
    for day in days:
        logged |= await _add_up(database, day)
    arms: dict[str, dict[str, str]] = {}
    for each in sorted(logged):
        for name, arm in arms_in(each):
            arms.setdefault(name, {})[each] = arm
    for name in arms.keys() & known.keys():
        if known[name].unit in _UNITS:
            async with database.begin() as connection:
                await _take_time(connection)
                statement = _expose(connection.dialect.name, known[name], arms[name], days[0], days[-1])
                await connection.execute(statement)
    async with database.begin() as connection:
        await connection.execute(delete(rolled_days).where(rolled_days.c.day.in_([day.isoformat() for day in days])))
        await _insert(connection, rolled_days, [{"day": day.isoformat(), "at": now} for day in days])


async def _add_up(database: AsyncEngine, day: date) -> set[str]:
    """Write the sums of a day; returns its arms as they were logged.

    It reads first, then writes what came out: a transaction of SQLite that writes lets nobody else write meanwhile.
    """
    named = {"day": day.isoformat()}
    async with database.connect() as connection:
        await _take_time(connection)
        sums = [{**named, **row._mapping} for row in await connection.execute(_sums(day))]
        clicked = [row._mapping for row in await connection.execute(_positions(day))]
    async with database.begin() as connection:
        for table in (arm_days, arm_positions):
            await connection.execute(delete(table).where(table.c.day == day.isoformat()))
        await _insert(connection, arm_days, _by_bucket(sums))
        await _insert(connection, arm_positions, list(_by_position(clicked, sums)))
    return {str(each["arm"]) for each in sums}


async def _take_time(connection: AsyncConnection) -> None:
    """Let PostgreSQL take more time, sort and join in memory, and compile nothing, until the end of the transaction."""
    if connection.dialect.name == "postgresql":
        wait_ms = round(1000 * _SLOWER * timeouts_of(connection.engine).database_statement_s)
        await connection.execute(text(f"SET LOCAL statement_timeout = {wait_ms}"))
        await connection.execute(text("SET LOCAL work_mem = '256MB'"))
        await connection.execute(text("SET LOCAL jit = off"))


def _of_day(day: date, table: Table, longer: timedelta = timedelta()) -> Any:
    return _within(day, day, table, longer)


def _within(first: date, last: date, table: Table, longer: timedelta = timedelta()) -> Any:
    begin, end = (datetime.combine(day, time(), UTC) for day in (first, last))
    return and_(table.c.at >= begin, table.c.at < end + _DAY + longer)


def _sums(day: date) -> Select[Any]:
    """Sums of the lists of a day by task, arm, bucket and length: one look at every list."""
    listed, happened = impressions.c, happened_to_lists(_of_day(day, clicks, _LATE))

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
            listed.n_shown,
            total(listed.n_chars, "chars"),
            total(listed.latency_ms, "latency_ms"),
        )
        .select_from(impressions.outerjoin(happened, happened.c.impression_id == listed.impression_id))
        .where(_of_day(day, impressions))
        .group_by(listed.task, listed.arm, bucket, listed.n_shown)
    )


def _positions(day: date) -> Select[Any]:
    """Clicks on the lists of a day by task, arm and position; the log has each of them once."""
    listed, event = impressions.c, clicks.c
    return (
        select(listed.task, listed.arm, event.position, func.count().label("clicked"))
        .select_from(clicks.join(impressions, listed.impression_id == event.impression_id))
        .where(_of_day(day, impressions), _of_day(day, clicks, _LATE))
        .where(event.kind == ClickKind.CLICK.value, event.position >= 1)
        .group_by(listed.task, listed.arm, event.position)
    )


def _by_bucket(sums: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of `arm_days`: lists of all lengths together."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in sums:
        mine = {name: row[name] for name in row if name != "n_shown"} | {"shown": row["lists"] * row["n_shown"]}
        present = found.setdefault(tuple(mine[name] for name in _KEY), mine)
        if present is not mine:
            present |= {name: present[name] + mine[name] for name in mine if name not in _KEY}
    return list(found.values())


def _by_position(clicked: Iterable[Mapping[str, Any]], sums: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows of `arm_positions`: a list of three has a first, a second and a third."""
    of = {(row["task"], row["arm"], row["position"]): row["clicked"] for row in clicked}
    shown: Counter[tuple[str, str, str, int]] = Counter()
    for row in sums:
        for position in range(1, row["n_shown"] + 1):
            shown[row["day"], row["task"], row["arm"], position] += row["lists"]
    for (day, task, arm, position), lists in shown.items():
        values = {"shown": lists, "clicked": of.get((task, arm, position), 0)}
        yield {"day": day, "task": task, "arm": arm, "position": position, **values}


def _expose(dialect: str, experiment: Experiment, arms: Mapping[str, str], first: date, last: date) -> Any:
    """Note the units of some days with their arms, where they are not noted yet. `arms`: of this experiment, as logged."""
    unit, logged = _UNITS[experiment.unit], impressions.c.arm
    query = select(literal(experiment.id), unit, case(arms, value=logged)).distinct()
    query = query.where(_within(first, last, impressions), logged.in_(arms), unit.is_not(None))
    put = (postgresql if dialect == "postgresql" else sqlite).insert(exposures)
    return put.from_select(["experiment", "unit", "arm"], query).on_conflict_do_nothing()


async def _insert(connection: AsyncConnection, table: Table, rows: list[dict[str, Any]]) -> None:
    if rows:
        await connection.execute(insert(table), rows)
