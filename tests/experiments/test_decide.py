"""A planted winner becomes champion, a planted loser does not, and what nobody can tell goes on until its time is over."""

from datetime import timedelta

import pytest
from sqlalchemy import update

from service.contract import registry
from service.contract.errors import ConfigurationError, RegistryConflict
from service.contract.fence import take_number
from service.contract.tables import experiments
from service.experiments import store
from service.experiments.decide import decide_all, try_policy
from service.experiments.definitions import Arm, Experiment
from tests.contract.test_registry import model
from tests.experiments.test_report import NOW, STARTED, _run

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
EARLY = STARTED + timedelta(days=6)


@pytest.fixture
async def policies(engine, tmp_path):
    for name in ("sft", "dpo-1"):
        await registry.register(engine, version=name, kind="policy", task="*", directory=model(tmp_path, name))
    await registry.put_in_front(engine, await registry.show(engine, "sft"))


def _trial():
    arms = [Arm(name="control", weight=0.5), Arm(name="warm", weight=0.5, policy="dpo-1")]
    return Experiment(id="warm-1", tasks=["suggest"], lift=0.1, promote=True, arms=arms)


async def _champion(engine, task="suggest"):
    return (await registry.champion(engine, "policy", task)).version


async def test_a_winner_becomes_champion_of_its_task_and_the_experiment_ends(engine, policies):
    await _run(engine, _trial(), effect=0.5)

    (decision,) = await decide_all(engine, most_days=14, now=EARLY)
    again = await decide_all(engine, most_days=14, now=EARLY)

    assert (decision.state, decision.version) == ("promoted", "dpo-1")
    assert "warm won: lift +" in decision.reason
    assert (await _champion(engine), await _champion(engine, "hint")) == ("dpo-1", "sft")
    assert (await store.running(engine)).experiments == []
    assert again == []


async def test_a_loser_is_dropped_and_the_champion_stays(engine, policies):
    await _run(engine, _trial(), effect=-0.6)

    (decision,) = await decide_all(engine, most_days=14, now=EARLY)

    assert (decision.state, decision.version) == ("dropped", None)
    assert await _champion(engine) == "sft"


async def test_a_winner_that_breaks_a_guardrail_is_dropped(engine, policies):
    await _run(engine, _trial(), effect=0.5, latency=1.6)

    (decision,) = await decide_all(engine, most_days=14, now=EARLY)

    assert decision.state == "dropped"
    assert "worse in latency_ms" in decision.reason
    assert await _champion(engine) == "sft"


async def test_what_is_open_goes_on_until_its_time_is_over(engine, policies):
    await _run(engine, _trial(), effect=0.02)

    (early,) = await decide_all(engine, most_days=14, now=EARLY)
    (late,) = await decide_all(engine, most_days=14, now=NOW)

    assert (early.state, late.state) == ("open", "dropped")
    assert "Nothing was decided in time" in late.reason
    assert await _champion(engine) == "sft"


async def test_an_arm_that_loses_people_never_wins(engine, policies):
    await _run(engine, _trial(), effect=0.5, lost=0.3)

    (decision,) = await decide_all(engine, most_days=14, now=EARLY)

    assert decision.state == "open"
    assert "not in the arms as they should be" in decision.reason


async def test_a_job_that_lost_its_lock_promotes_nothing(engine, policies):
    await _run(engine, _trial(), effect=0.5)
    stale = await take_number(engine, "nightly")
    await take_number(engine, "nightly")

    with pytest.raises(RegistryConflict, match="lost its lock"):
        await decide_all(engine, most_days=14, fence=stale, now=EARLY)
    assert await _champion(engine) == "sft"
    assert [each.id for each in (await store.running(engine)).experiments] == ["warm-1"]


async def test_an_experiment_that_does_not_say_promote_is_left_to_people(engine, policies):
    await _run(engine, _trial().model_copy(update={"promote": False}), effect=0.5)

    assert await decide_all(engine, most_days=14, now=NOW) == []


async def test_one_policy_of_a_task_is_tried_at_a_time(engine, policies):
    first = await try_policy(engine, "dpo-1", "suggest", share=0.2, lift=0.05)
    same = await try_policy(engine, "dpo-1", "suggest", share=0.2, lift=0.05)
    other = await try_policy(engine, "sft", "suggest", share=0.2, lift=0.05)
    of_another_task = await try_policy(engine, "sft", "hint", share=0.2, lift=0.05)

    assert (first, same, other, of_another_task) == ("try-suggest-dpo-1", "try-suggest-dpo-1", None, "try-hint-sft")
    (kept, _) = await store.running_ones(engine)
    assert (kept.source, kept.definition.share, kept.definition.tasks) == ("job", 0.2, ["suggest"])


async def test_a_policy_that_is_not_registered_is_not_tried(engine, policies):
    with pytest.raises(ConfigurationError, match="'dpo-9', which is not registered"):
        await try_policy(engine, "dpo-9", "suggest", share=0.2, lift=0.05)


async def test_the_time_of_an_experiment_counts_from_its_start(engine, policies):
    await try_policy(engine, "dpo-1", "suggest", share=0.2, lift=0.05)
    async with engine.begin() as connection:
        await connection.execute(update(experiments).values(started_at=NOW - timedelta(days=15)))

    (decision,) = await decide_all(engine, most_days=14, now=NOW)

    assert decision.state == "dropped"


async def test_an_adapter_on_a_base_that_was_replaced_is_dropped_however_well_it_does(engine, policies, tmp_path):
    adapter = model(tmp_path, "dpo-2", base="sft")
    await registry.register(engine, version="dpo-2", kind="policy", task="*", directory=adapter)
    trial = _trial().model_copy(
        update={"arms": [Arm(name="control", weight=0.5), Arm(name="warm", weight=0.5, policy="dpo-2")]}
    )
    await _run(engine, trial, effect=0.5)
    await registry.register(engine, version="sft-2", kind="policy", task="*", directory=model(tmp_path, "sft-2"))
    await registry.put_in_front(engine, await registry.show(engine, "sft-2"))

    (decision,) = await decide_all(engine, most_days=14, now=EARLY)

    assert (decision.state, decision.version) == ("dropped", None)
    assert "dpo-2 stands on serves no longer" in decision.reason
    assert await _champion(engine) == "sft-2"
