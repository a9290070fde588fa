"""What an experiment came to: click-through by arm, day and position, lifts, guardrails, and whether it may be believed.

It reads sums only, never the log. It knows nothing about how it is shown.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Select, Table, func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from service.contract.database import database_errors
from service.contract.tables import arm_days, arm_positions, exposures
from service.experiments import store
from service.experiments.assignment import BUCKETS, arms_in
from service.experiments.definitions import Experiment
from service.experiments.estimate import SRM_LEVEL, Lift, Rates, lift, power, sample_ratio_p, times_more
from service.experiments.rollup import roll_up

Sums = NDArray[np.float64]

GUARDRAILS = {
    # name: (sum, of which sum, and the largest relative rise that is no harm)
    "latency_ms": ("latency_ms", "lists", 0.25),
    "degraded_share": ("degraded", "lists", 0.25),
    "repeated_share": ("repeated", "shown", 0.25),
    "chars_per_query": ("chars", "shown", 0.10),
}
_SURE = 3.0  # standard errors: all guardrails are looked at every day, and a good arm must not be dropped by chance
_LEAST_RISE = {"degraded_share": 0.002, "repeated_share": 0.005}  # absolute: of little, twice as much is still little


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """A rate with its 95 % interval; of no lists it is None."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Guardrail:
    """What must not get worse. `holds` is False where the arm is worse by more than is allowed, beyond its interval."""

    control: float | None
    arm: float | None
    rise: float | None
    allowed: float
    holds: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmReport:
    """One arm. `ctr`: clicked lists over lists; `ctr_of_seen`: over lists that were seen. `lift`: over the control."""

    name: str
    units: int
    lists: int
    clicked: int
    ctr: Rate
    ctr_of_seen: Rate
    by_day: Mapping[str, Rate]
    by_position: Mapping[int, float]
    lift: Lift | None = None
    power: float | None = None
    days_needed: float | None = None
    guardrails: Mapping[str, Guardrail] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The whole report. `problem`: why its results may not be believed, and are not shown then.

    `sample_ratio_p`: probability of arms so uneven, or more, where units are assigned as they should be.
    """

    experiment: Experiment
    started_at: datetime
    ended_at: datetime | None
    days: Sequence[str]
    sample_ratio_p: float | None
    problem: str | None
    arms: Sequence[ArmReport]


async def make_report(database: AsyncEngine, name: str, now: datetime | None = None) -> Report:
    """The report of an experiment, with all that was added up until `now`.

    Raises:
        ConfigurationError: There is none of that name.
        DatabaseError: The database is away.
    """
    now = now or datetime.now(UTC)
    known = await store.experiments_of(database)
    kept = store.named(known, name)
    since, until = kept.started_at.date(), (kept.ended_at or now).date() + timedelta(days=1)
    await roll_up(database, [each.definition for each in known.values()], since, until, now)
    with database_errors("the sums of an experiment were read"):
        async with database.connect() as connection:
            rows = [dict(row._mapping) for row in await connection.execute(_from(arm_days, since, until))]
            places = [dict(row._mapping) for row in await connection.execute(_from(arm_positions, since, until))]
            counted = (
                select(exposures.c.arm, func.count()).where(exposures.c.experiment == name).group_by(exposures.c.arm)
            )
            units = {row[0]: row[1] for row in await connection.execute(counted)}
    return _report(kept.definition, kept.started_at, kept.ended_at, rows, places, units)


def _from(table: Table, since: date, until: date) -> Select[Any]:
    return select(table).where(table.c.day >= since.isoformat(), table.c.day < until.isoformat())


def _report(
    experiment: Experiment,
    started_at: datetime,
    ended_at: datetime | None,
    rows: Iterable[Mapping[str, Any]],
    places: Iterable[Mapping[str, Any]],
    units: Mapping[str, int],
) -> Report:
    sums = _Sums(experiment, rows)
    counts = [float(units.get(arm.name, 0)) for arm in experiment.arms]
    if experiment.unit == "request":
        counts = [float(n) for n in sums.of("lists").sum(axis=(1, 2))]
    weights = np.array([arm.weight for arm in experiment.arms])
    ratio_p = sample_ratio_p(np.array(counts), weights) if sum(counts) else None
    problem = None
    if ratio_p is not None and ratio_p < SRM_LEVEL:
        shares = ", ".join(
            f"{arm.name} {n:.0f} for {sum(counts) * arm.weight:.0f}"
            for arm, n in zip(experiment.arms, counts, strict=True)
        )
        problem = (
            f"Units are not in the arms as they should be ({shares}; p = {ratio_p:.1g}), so that something else than chance "
            "decides who is counted, and no result is shown. Usually replies of one arm are lost more often: compare the "
            "degraded share, and the versions of the product."
        )
    arms = [] if problem else _arms(experiment, sums, places, counts)
    return Report(
        experiment=experiment,
        started_at=started_at,
        ended_at=ended_at,
        days=sums.days,
        sample_ratio_p=ratio_p,
        problem=problem,
        arms=arms,
    )


class _Sums:
    """Sums by arm, day and bucket, each (A, D, B)."""

    def __init__(self, experiment: Experiment, rows: Iterable[Mapping[str, Any]]) -> None:
        number = {arm.name: i for i, arm in enumerate(experiment.arms)}
        mine = [(number[arm], row) for row in rows for arm in _arm_in(row, experiment) if arm in number]
        self.days = sorted({row["day"] for _, row in mine})
        place = {day: i for i, day in enumerate(self.days)}
        shape = (len(experiment.arms), max(1, len(self.days)), BUCKETS + 1)  # -1, the last: units that nobody named
        self._sums = {name: np.zeros(shape) for name in _SUMMED}
        for i, row in mine:
            for name, sums in self._sums.items():
                sums[i, place[row["day"]], row["unit_bucket"]] += row[name]

    def of(self, name: str) -> Sums:
        """The sums of one column."""
        return self._sums[name]


_SUMMED = ("lists", "clicked", "seen", "degraded", "repeated", "shown", "chars", "latency_ms")


def _arms(
    experiment: Experiment, sums: _Sums, places: Iterable[Mapping[str, Any]], units: Sequence[float]
) -> list[ArmReport]:
    lists, clicked = sums.of("lists").sum(axis=1), sums.of("clicked").sum(axis=1)
    ctr = Rates.of(clicked, lists)
    of_seen = Rates.of(np.minimum(clicked, sums.of("seen").sum(axis=1)), sums.of("seen").sum(axis=1))
    daily = [Rates.of(sums.of("clicked")[:, d], sums.of("lists")[:, d]) for d in range(len(sums.days))]
    guarded = {name: _guardrails(sums, top, bottom) for name, (top, bottom, _) in GUARDRAILS.items()}
    positions = _positions(experiment, places)
    found = []
    for i, arm in enumerate(experiment.arms):
        compared = lift(ctr, clicked.sum(axis=1), i, experiment.lift) if i else None
        found.append(
            ArmReport(
                name=arm.name,
                units=int(units[i]),
                lists=int(lists[i].sum()),
                clicked=int(clicked[i].sum()),
                ctr=_rate(ctr, i),
                ctr_of_seen=_rate(of_seen, i),
                by_day={day: _rate(rates, i) for day, rates in zip(sums.days, daily, strict=True)},
                by_position=positions.get(arm.name, {}),
                lift=compared,
                power=power(compared.variance, experiment.lift) if compared else None,
                days_needed=_days_needed(compared, experiment.lift, len(sums.days)) if compared else None,
                guardrails={name: _guardrail(name, rates, i) for name, rates in guarded.items()} if i else None,
            )
        )
    return found


def _arm_in(row: Mapping[str, Any], experiment: Experiment) -> list[str]:
    """The arm of `experiment` in which the lists of a row were shown, where they were in one."""
    return [arm for name, arm in arms_in(row["arm"]) if name == experiment.id]


def _rate(rates: Rates, arm: int) -> Rate:
    value = rates.value[arm]
    if not np.isfinite(value):
        return Rate(value=None, low=None, high=None)
    low, high = rates.interval(arm)
    return Rate(value=float(value), low=max(0.0, low), high=high)


def _days_needed(found: Lift, planned: float, days: int) -> float:
    """Days still to come until `planned` would be found with probability .8, at the pace so far."""
    return max(0.0, days * (times_more(found.variance, planned) - 1.0))


def _guardrails(sums: _Sums, top: str, bottom: str) -> Rates:
    return Rates.of(sums.of(top).sum(axis=1), sums.of(bottom).sum(axis=1))


def _guardrail(name: str, rates: Rates, arm: int) -> Guardrail:
    """It is broken where even the low end of the rise is more than is allowed."""
    allowed = GUARDRAILS[name][2]
    control, value = (float(rates.value[i]) for i in (0, arm))
    if not (np.isfinite(control) and np.isfinite(value)):
        return Guardrail(control=None, arm=None, rise=None, allowed=allowed, holds=True)
    spread = rates.covariance[arm, arm] + rates.covariance[0, 0] - 2 * rates.covariance[arm, 0]
    least = value - control - _SURE * float(np.sqrt(max(spread, 0.0)))
    most = max(allowed * control, _LEAST_RISE.get(name, 0.0))
    rise = value / control - 1.0 if control else None
    return Guardrail(control=control, arm=value, rise=rise, allowed=allowed, holds=least <= most)


def _positions(experiment: Experiment, places: Iterable[Mapping[str, Any]]) -> dict[str, dict[int, float]]:
    """Share of the queries at each position that were clicked, by arm."""
    shown: dict[tuple[str, int], int] = {}
    clicked: dict[tuple[str, int], int] = {}
    for row in places:
        for arm in _arm_in(row, experiment):
            key = arm, row["position"]
            shown[key] = shown.get(key, 0) + row["shown"]
            clicked[key] = clicked.get(key, 0) + row["clicked"]
    found: dict[str, dict[int, float]] = {}
    for (arm, position), n in sorted(shown.items()):
        found.setdefault(arm, {})[position] = clicked[arm, position] / n if n else 0.0
    return found
