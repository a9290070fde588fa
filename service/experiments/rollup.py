"""Sums over the log by day, arm and bucket of units, so that no report reads the log again.

It knows nothing about experiments' results. A day that is over is added up once more the day after, for late clicks.
"""

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Select,
    Subquery,
    Table,
    and_,
    case,
    delete,
    exists,
    func,
    insert,
    literal,
    select,
    text,
)
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
_KEY = ("task", "arm", "unit_bucket")
_BUCKET = func.coalesce(impressions.c.unit_bucket, -1).label("unit_bucket")
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
            async with _writing(database, exposures) as connection:
                await connection.execute(_expose(known[name], arms[name], days[0], days[-1]))
    async with _writing(database, rolled_days) as connection:
        await connection.execute(delete(rolled_days).where(rolled_days.c.day.in_([day.isoformat() for day in days])))
        await _insert(connection, rolled_days, [{"day": day.isoformat(), "at": now} for day in days])


async def _add_up(database: AsyncEngine, day: date) -> set[str]:
    """Write the sums of a day; returns its arms as they were logged.

    It reads first, then writes what came out: a transaction of SQLite that writes lets nobody else write meanwhile.
    """
    named = {"day": day.isoformat()}
    async with database.connect() as connection:
        await _take_time(connection)
        # In this order: lists are only added, so that each of the former is among the latter.
        happened = [row._mapping for row in await connection.execute(_happened(day))]
        sums = [row._mapping for row in await connection.execute(_sums(day))]
    async with _writing(database, arm_days, arm_positions) as connection:
        for table, rows in ((arm_days, _by_bucket(sums, happened)), (arm_positions, _by_position(sums, happened))):
            await connection.execute(delete(table).where(table.c.day == day.isoformat()))
            await _insert(connection, table, [{**named, **row} for row in rows])
    return {str(each["arm"]) for each in sums}


@asynccontextmanager
async def _writing(database: AsyncEngine, *tables: Table) -> AsyncIterator[AsyncConnection]:
    """A transaction in which nobody else writes these tables: two reports add up the same day. SQLite has no other ones."""
    async with database.begin() as connection:
        await _take_time(connection)
        if connection.dialect.name == "postgresql":
            names = ", ".join(table.name for table in tables)
            await connection.execute(text(f"LOCK TABLE {names} IN SHARE ROW EXCLUSIVE MODE"))
        yield connection


async def _take_time(connection: AsyncConnection) -> None:
    """Let PostgreSQL take more time, sort and join in memory, and compile nothing, until the end of the transaction."""
    if connection.dialect.name == "postgresql":
        wait_ms = round(1000 * _SLOWER * timeouts_of(connection.engine).database_statement_s)
        for name in ("statement_timeout", "lock_timeout"):
            await connection.execute(text(f"SET LOCAL {name} = {wait_ms}"))
        await connection.execute(text("SET LOCAL work_mem = '256MB'"))
        await connection.execute(text("SET LOCAL jit = off"))


def _of_day(day: date, table: Table, longer: timedelta = timedelta()) -> Any:
    return _within(day, day, table, longer)


def _within(first: date, last: date, table: Table, longer: timedelta = timedelta()) -> Any:
    begin, end = (datetime.combine(day, time(), UTC) for day in (first, last))
    return and_(table.c.at >= begin, table.c.at < end + _DAY + longer)


def _sums(day: date) -> Select[Any]:
    """Sums of the lists of a day by task, arm, bucket and length: one look at every list."""
    listed = impressions.c

    def total(column: Any, name: str) -> Any:
        return func.coalesce(func.sum(column), 0).label(name)

    return (
        select(
            listed.task,
            listed.arm,
            _BUCKET,
            func.count().label("lists"),
            total(case((listed.degraded_reason.is_not(None), 1), else_=0), "degraded"),
            total(listed.n_repeated, "repeated"),
            listed.n_shown,
            total(listed.n_chars, "chars"),
            total(listed.latency_ms, "latency_ms"),
        )
        .where(_of_day(day, impressions))
        .group_by(listed.task, listed.arm, _BUCKET, listed.n_shown)
    )


def _happened(day: date) -> Select[Any]:
    """How many lists of a day by task, arm and bucket were seen, and clicked where: `places` has a bit for each position.

    The log has each event once, so that a sum of bits is their union, which both databases can work out in parts.
    """
    listed, event = impressions.c, clicks.c
    place = literal(1, BigInteger).bitwise_lshift(event.position)
    of_list = (
        select(
            listed.task,
            listed.arm,
            _BUCKET,
            func.max(case((event.kind == ClickKind.SEEN.value, 1), else_=0)).label("seen"),
            func.sum(case((event.kind == ClickKind.CLICK.value, place), else_=0)).label("places"),
        )
        .select_from(clicks.join(impressions, listed.impression_id == event.impression_id))
        .where(_of_day(day, impressions), _of_day(day, clicks, _LATE))
        .group_by(listed.impression_id, listed.task, listed.arm, _BUCKET)
        .subquery()
    )
    return select(*of_list.c, func.count().label("lists")).group_by(*of_list.c)


def _by_bucket(sums: Iterable[Mapping[str, Any]], happened: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of `arm_days`: lists of all lengths together."""
    found: dict[tuple[Any, ...], Counter[str]] = {}
    for row in sums:
        mine = {name: row[name] for name in ("lists", "degraded", "repeated", "chars", "latency_ms")}
        of_any_length = found.setdefault(_key(row), Counter(clicked=0, seen=0))
        of_any_length.update(mine | {"shown": row["lists"] * row["n_shown"]})
    for row in happened:
        lists = row["lists"]
        found[_key(row)].update({"clicked": lists * bool(row["places"]), "seen": lists * row["seen"]})
    return [{**dict(zip(_KEY, key, strict=True)), **summed} for key, summed in found.items()]


def _by_position(sums: Iterable[Mapping[str, Any]], happened: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows of `arm_positions`: a list of three has a first, a second and a third."""
    shown: Counter[tuple[str, str, int]] = Counter()
    clicked: Counter[tuple[str, str, int]] = Counter()
    for row in sums:
        for position in range(1, row["n_shown"] + 1):
            shown[row["task"], row["arm"], position] += row["lists"]
    for row in happened:
        for position in range(1, int(row["places"]).bit_length()):
            clicked[row["task"], row["arm"], position] += row["lists"] * (int(row["places"]) >> position & 1)
    for key, lists in shown.items():
        yield {**dict(zip(("task", "arm", "position"), key, strict=True)), "shown": lists, "clicked": clicked[key]}


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in _KEY)


def _expose(experiment: Experiment, arms: Mapping[str, str], first: date, last: date) -> Any:
    """Note the units of some days with their arms, where they are not noted yet. `arms`: of this experiment, as logged.

    Nobody else writes meanwhile: leaving known ones out, and noting the others in order, takes PostgreSQL a third of
    the time of ON CONFLICT, a million at once.
    """
    unit, logged = _UNITS[experiment.unit], impressions.c.arm
    took_part = (
        select(unit.label("unit"), case(arms, value=logged).label("arm"))
        .distinct()
        .where(_within(first, last, impressions), logged.in_(arms), unit.is_not(None))
        .subquery()
    )
    key = (exposures.c.experiment, exposures.c.unit, exposures.c.arm)
    known = exists().where(*(a == b for a, b in zip(key, (experiment.id, *took_part.c), strict=True)))
    new = select(literal(experiment.id), *took_part.c).where(~known).order_by(*took_part.c)
    return insert(exposures).from_select([column.name for column in key], new)


async def _insert(connection: AsyncConnection, table: Table, rows: list[dict[str, Any]]) -> None:
    if rows:
        await connection.execute(insert(table), rows)
