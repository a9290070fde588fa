"""Reports find what was planted, hide what may not be believed, and count each unit once."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from sqlalchemy import insert, update

from service.contract.errors import ConfigurationError
from service.contract.tables import clicks, experiments, impressions
from service.experiments import store
from service.experiments.assignment import Assigner, bucket_of
from service.experiments.definitions import Arm, Experiment, Experiments
from service.experiments.estimate import Rates
from service.experiments.report import _guardrail, make_report

STARTED = datetime(2026, 11, 1, 6, tzinfo=UTC)
NOW = datetime(2026, 11, 20, tzinfo=UTC)
DAYS = 5


def _experiment(unit="user", weights=(0.5, 0.5)):
    arms = [Arm(name="control", weight=weights[0]), Arm(name="warm", weight=weights[1], temperature=1.0)]
    return Experiment(id="warm-1", unit=unit, lift=0.1, arms=arms)


async def _run(engine, experiment, *, people=1_500, effect=0.0, lost=0.0, latency=1.0, degraded=0.0, seed=3):
    """People who come now and then for some days; what is planted concerns the second arm."""
    rng, shown, happened = np.random.default_rng(seed), [], []
    assign = Assigner(Experiments(experiments=[experiment])).assign
    taste = rng.beta(2, 8, people)
    for person in range(people):
        for visit in range(rng.poisson(3)):
            name, user = f"i{person}-{visit}", f"u{person}"
            arm = assign("suggest", {"user": user, "session": f"s{person}-{visit}", "request": name}).arm
            warm = arm.endswith("warm")
            if warm and person % 100 < 100 * lost:
                continue
            at = STARTED + timedelta(seconds=float(rng.random() * (DAYS - 1) * 86_400))
            row = {
                "impression_id": name,
                "at": at,
                "task": "suggest",
                "user_id": user,
                "session_id": f"s{person}-{visit}",
                "arm": arm,
                "context": {},
                "prompt_fingerprint": "",
                "prompt_tokens": 0,
                "sampling": {},
                "candidates": [],
                "texts": {},
                "n_shown": 3,
                "served_by": "model",
                "degraded_reason": "deadline" if warm and rng.random() < degraded else None,
                "timings": {},
                "unit_bucket": bucket_of(user),
                "latency_ms": float(rng.gamma(20, 5)) * (latency if warm else 1.0),
                "n_repeated": 0,
                "n_chars": 60,
            }
            shown.append(row)
            same = {"impression_id": name, "at": at, "task": "suggest", "arm": arm}
            happened.append({**same, "position": 0, "kind": "seen"})
            if rng.random() < taste[person] * (1 + effect * warm):
                happened.append({**same, "position": int(rng.integers(1, 4)), "kind": "click"})
    await store.start(engine, experiment)
    async with engine.begin() as connection:
        await connection.execute(update(experiments).values(started_at=STARTED))
        for begin in range(0, len(shown), 5_000):
            await connection.execute(insert(impressions), shown[begin : begin + 5_000])
        for begin in range(0, len(happened), 5_000):
            await connection.execute(insert(clicks), happened[begin : begin + 5_000])
    return shown, happened


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_planted_lift_is_found_with_its_interval(engine):
    shown, happened = await _run(engine, _experiment(), effect=0.5)

    report = await make_report(engine, "warm-1", NOW)

    control, warm = report.arms
    clicked = [event for event in happened if event["kind"] == "click"]
    assert report.problem is None
    assert control.lists + warm.lists == len(shown)
    assert control.clicked + warm.clicked == len(clicked)
    assert warm.units == len({row["user_id"] for row in shown if row["arm"] == "warm-1=warm"})
    assert warm.ctr.value == pytest.approx(sum("warm" in e["arm"][7:] for e in clicked) / warm.lists)
    assert warm.ctr_of_seen == warm.ctr  # all were seen
    assert warm.lift.always_low > 0
    assert warm.lift.low < 0.5 < warm.lift.high
    assert control.lift is None
    assert len(warm.by_day) == len(report.days) == DAYS
    assert sum(warm.by_position.values()) == pytest.approx(warm.ctr.value)
    assert all(guard.holds for guard in warm.guardrails.values())


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_what_is_not_there_is_not_found_and_the_days_still_needed_are_told(engine):
    await _run(engine, _experiment(), effect=0.0)

    _, warm = (await make_report(engine, "warm-1", NOW)).arms

    assert warm.lift.always_low < 0 < warm.lift.always_high
    assert 0.05 < warm.power < 0.8
    # By definition: power .8 needs ((1.96 + .84) / log(1.1))^2 times the variance, so many days more.
    expected = DAYS * (warm.lift.variance / (np.log(1.1) / 2.801585) ** 2 - 1)
    assert warm.days_needed == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_an_arm_that_loses_people_has_no_results(engine):
    await _run(engine, _experiment(), effect=0.5, lost=0.3)

    report = await make_report(engine, "warm-1", NOW)

    assert report.sample_ratio_p < 0.001
    assert report.arms == []
    assert "Units are not in the arms as they should be (control " in report.problem


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("planted", "broken"),
    [({"latency": 1.5}, "latency_ms"), ({"degraded": 0.1}, "degraded_share"), ({"latency": 1.1}, None)],
)
async def test_guardrails_tell_what_got_worse(engine, planted, broken):
    await _run(engine, _experiment(), **planted)

    _, warm = (await make_report(engine, "warm-1", NOW)).arms

    assert [name for name, guard in warm.guardrails.items() if not guard.holds] == ([broken] if broken else [])


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_uneven_weights_are_what_is_expected_and_requests_are_units_too(engine):
    shown, _ = await _run(engine, _experiment(unit="request", weights=(0.8, 0.2)))

    report = await make_report(engine, "warm-1", NOW)

    assert report.problem is None
    assert report.sample_ratio_p > 0.001
    assert sum(arm.units for arm in report.arms) == len(shown)


async def test_an_experiment_without_a_list_has_an_empty_report(engine):
    await store.start(engine, _experiment())

    report = await make_report(engine, "warm-1")

    assert report.problem is None
    assert [(arm.lists, arm.ctr.value, arm.lift) for arm in report.arms] == [(0, None, None)] * 2


async def test_one_that_nobody_knows_is_refused(engine):
    with pytest.raises(ConfigurationError, match="There is no experiment 'dpo-9'"):
        await make_report(engine, "dpo-9")


@pytest.mark.parametrize(("rise", "holds"), [(0.24, True), (0.30, True), (0.36, False), (-0.5, True)])
def test_a_guardrail_breaks_where_three_standard_errors_say_so(rise, holds):
    deviation = 0.03  # relative, of the difference; .25 is allowed
    rates = Rates(np.array([100.0, 100.0 * (1 + rise)]), np.diag([0.0, (100.0 * deviation) ** 2]))

    assert _guardrail("latency_ms", rates, 1).holds is holds
