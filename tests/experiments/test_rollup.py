"""Sums over the log are those that an obvious loop over its rows gives, on both databases."""

import asyncio
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from random import Random

import pytest
from sqlalchemy import insert, select, update

from service.contract.tables import arm_days, arm_positions, clicks, exposures, impressions
from service.experiments import rollup
from service.experiments.definitions import Arm, Experiment
from service.experiments.rollup import roll_up

FIRST = date(2026, 11, 1)
DAYS = 3
NOW = datetime(2026, 11, 10, tzinfo=UTC)
EXPERIMENT = Experiment(id="dpo", arms=[Arm(name="control", weight=0.5), Arm(name="new", weight=0.5, temperature=1.0)])
BY_SESSION = Experiment(id="dpo-2", unit="session", arms=EXPERIMENT.arms)


def _log(lists=400, seed=1):
    rng, shown, happened = Random(seed), [], []
    for number in range(lists):
        at = datetime(2026, 11, 1, tzinfo=UTC) + timedelta(seconds=rng.randrange(DAYS * 86_400))
        user = rng.randrange(60)
        n_shown = rng.choice([0, 2, 3, 3])
        row = {
            "impression_id": f"i{number:04}",
            "at": at,
            "task": rng.choice(["suggest", "hint"]),
            "user_id": f"u{user}" if user else None,
            "session_id": f"s{rng.randrange(90)}",
            "arm": rng.choice(["control", f"dpo={'new' if user % 2 else 'control'} dpo-2=control", "holdout"]),
            "context": {},
            "prompt_fingerprint": "",
            "prompt_tokens": 0,
            "sampling": {},
            "candidates": [],
            "texts": {},
            "n_shown": n_shown,
            "served_by": "model",
            "degraded_reason": rng.choice([None, None, "deadline"]),
            "timings": {},
            "unit_bucket": rng.choice([None, user % 10]),
            "latency_ms": float(rng.randrange(10, 90)),
            "n_repeated": rng.randrange(2),
            "n_chars": 10 * n_shown,
        }
        shown.append(row)
        for position in range(n_shown + 1):
            if rng.random() < 0.3:
                late = timedelta(hours=rng.choice([0, 1, 60]))
                same = {"impression_id": row["impression_id"], "at": at + late, "task": row["task"], "arm": row["arm"]}
                happened.append({**same, "position": position, "kind": "click" if position else "seen"})
    return shown, happened


async def _store(engine, shown, happened):
    async with engine.begin() as connection:
        await connection.execute(insert(impressions), shown)
        await connection.execute(insert(clicks), happened)


async def _rows(engine, table):
    async with engine.connect() as connection:
        return [dict(row._mapping) for row in await connection.execute(select(table))]


def _in_time(row, event):
    end = datetime.combine(row["at"].date(), datetime.min.time(), UTC) + 2 * timedelta(days=1)
    return event["at"] < end


async def test_the_sums_are_those_of_a_loop_over_the_log(engine):
    shown, happened = _log()
    await _store(engine, shown, happened)
    of_list = {row["impression_id"]: row for row in shown}
    in_time = [event for event in happened if _in_time(of_list[event["impression_id"]], event)]
    clicked = {event["impression_id"] for event in in_time if event["kind"] == "click"}
    seen = {event["impression_id"] for event in in_time if event["kind"] == "seen"}
    expected, places, units = Counter(), Counter(), set()
    for row in shown:
        own = row["impression_id"]
        bucket = -1 if row["unit_bucket"] is None else row["unit_bucket"]
        key = (row["at"].date().isoformat(), row["task"], row["arm"], bucket)
        for name, value in {
            "lists": 1,
            "clicked": own in clicked,
            "seen": own in seen,
            "degraded": row["degraded_reason"] is not None,
            "repeated": row["n_repeated"],
            "shown": row["n_shown"],
            "chars": row["n_chars"],
            "latency_ms": row["latency_ms"],
        }.items():
            expected[*key, name] += value
        for position in range(1, row["n_shown"] + 1):
            places[*key[:3], position, "shown"] += 1
        if row["arm"].startswith("dpo="):
            arm = row["arm"].split()[0].removeprefix("dpo=")
            units |= {("dpo-2", row["session_id"], "control")}
            units |= {("dpo", row["user_id"], arm)} if row["user_id"] else set()
    for event in in_time:
        row = of_list[event["impression_id"]]
        if event["kind"] == "click":
            places[row["at"].date().isoformat(), row["task"], row["arm"], event["position"], "clicked"] += 1

    days = await roll_up(engine, [EXPERIMENT, BY_SESSION], FIRST, FIRST + timedelta(days=DAYS), NOW)

    found = Counter()
    for row in await _rows(engine, arm_days):
        key = (row["day"], row["task"], row["arm"], row["unit_bucket"])
        found.update({(*key, name): row[name] for name in row if name not in ("day", "task", "arm", "unit_bucket")})
    assert +found == +expected
    by_position = Counter()
    for row in await _rows(engine, arm_positions):
        key = (row["day"], row["task"], row["arm"], row["position"])
        by_position.update({(*key, name): row[name] for name in ("shown", "clicked")})
    assert +by_position == +places
    assert {(r["experiment"], r["unit"], r["arm"]) for r in await _rows(engine, exposures)} == units
    assert days == [FIRST + timedelta(days=k) for k in range(DAYS)]


@pytest.mark.parametrize("hours", [12, 36])
async def test_a_day_is_added_up_again_until_late_clicks_are_in_and_then_never_more(engine, hours):
    shown, happened = _log(lists=40)
    await _store(engine, shown, happened)
    early = datetime(2026, 11, 1, tzinfo=UTC) + timedelta(hours=hours)
    one_day = (FIRST, FIRST + timedelta(days=1))

    first = await roll_up(engine, [EXPERIMENT], *one_day, early)
    at_once = await roll_up(engine, [EXPERIMENT], *one_day, early + timedelta(seconds=5))
    later = await roll_up(engine, [EXPERIMENT], *one_day, early + timedelta(minutes=5))
    over = await roll_up(engine, [EXPERIMENT], *one_day, NOW)
    async with engine.begin() as connection:
        await connection.execute(update(impressions).values(degraded_reason="deadline"))
    never = await roll_up(engine, [EXPERIMENT], *one_day, NOW + timedelta(days=1))

    assert (first, at_once, later, over, never) == ([FIRST], [], [FIRST], [FIRST], [])
    assert sum(row["degraded"] for row in await _rows(engine, arm_days)) < sum(
        row["lists"] for row in await _rows(engine, arm_days)
    )


async def test_a_day_to_come_is_left_alone(engine):
    assert await roll_up(engine, [], FIRST, FIRST + timedelta(days=1), datetime(2026, 10, 31, tzinfo=UTC)) == []


async def test_who_is_killed_before_units_are_counted_counts_them_the_next_time(engine, monkeypatch):
    shown, happened = _log()
    await _store(engine, shown, happened)
    until = FIRST + timedelta(days=DAYS)

    with monkeypatch.context() as killed:
        killed.setattr(rollup, "_expose", None)
        with pytest.raises(TypeError):
            await roll_up(engine, [EXPERIMENT], FIRST, until, NOW)
    again = await roll_up(engine, [EXPERIMENT], FIRST, until, NOW)
    more = await roll_up(engine, [EXPERIMENT], FIRST, until, NOW)

    assert len(again) == DAYS
    assert more == []
    counted = {row["unit"] for row in await _rows(engine, exposures)}
    assert counted == {row["user_id"] for row in shown if "dpo=" in row["arm"] and row["user_id"]}


async def test_a_long_log_is_added_up_in_parts(engine, monkeypatch):
    shown, happened = _log()
    await _store(engine, shown, happened)
    monkeypatch.setattr(rollup, "_DAYS_AT_ONCE", 2)

    assert len(await roll_up(engine, [EXPERIMENT], FIRST, FIRST + timedelta(days=DAYS), NOW)) == DAYS

    assert sum(row["lists"] for row in await _rows(engine, arm_days)) == len(shown)
    counted = {row["unit"] for row in await _rows(engine, exposures)}
    assert counted == {row["user_id"] for row in shown if "dpo=" in row["arm"] and row["user_id"]}


async def test_two_who_add_up_at_once_do_not_stop_each_other(engine):
    shown, happened = _log()
    await _store(engine, shown, happened)
    until = FIRST + timedelta(days=DAYS)

    await asyncio.gather(*(roll_up(engine, [EXPERIMENT], FIRST, until, NOW) for _ in range(4)))

    assert sum(row["lists"] for row in await _rows(engine, arm_days)) == len(shown)
    counted = [row["unit"] for row in await _rows(engine, exposures)]
    assert sorted(counted) == sorted({row["user_id"] for row in shown if "dpo=" in row["arm"] and row["user_id"]})
