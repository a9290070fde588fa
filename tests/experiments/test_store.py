"""What runs: accepted once, never changed while it runs, and kept when a file is refused."""

import pytest

from service.contract import registry
from service.contract.errors import ConfigurationError
from service.experiments import store
from service.experiments.definitions import Arm, Experiment, Experiments, Holdout
from tests.contract.test_registry import model


def _experiment(name="dpo-1", **more):
    arms = [Arm(name="control", weight=0.5), Arm(name="warm", weight=0.5, temperature=0.9)]
    return Experiment(**{"id": name, "arms": arms, **more})


def _file(*experiments, holdout=None):
    return Experiments(experiments=list(experiments), holdout=holdout)


async def test_what_a_file_says_runs(engine):
    said = await store.apply(engine, _file(_experiment(), holdout=Holdout(share=0.1)))

    assert sorted(said) == ["dpo-1 runs.", "holdout runs."]
    assert await store.running(engine) == _file(_experiment(), holdout=Holdout(share=0.1))


async def test_the_same_file_again_changes_nothing(engine):
    await store.apply(engine, _file(_experiment()))
    before = await store.list_experiments(engine)

    assert await store.apply(engine, _file(_experiment())) == []
    assert await store.list_experiments(engine) == before


async def test_what_is_gone_from_the_file_ends(engine):
    await store.apply(engine, _file(_experiment()))

    assert await store.apply(engine, _file()) == ["dpo-1 has ended."]
    assert (await store.running(engine)).experiments == []
    (ended,) = await store.list_experiments(engine)
    assert ended.ended_at is not None
    assert ended.reason == "It is not in the file any more."


@pytest.mark.parametrize("change", [{"share": 0.5}, {"salt": "other"}, {"unit": "session"}, {"tasks": ["hint"]}])
async def test_one_that_runs_is_not_changed(engine, change):
    await store.apply(engine, _file(_experiment()))

    with pytest.raises(ConfigurationError, match=f"dpo-1 runs, and another {next(iter(change))} .* clone it"):
        await store.apply(engine, _file(_experiment(**change)))
    assert await store.running(engine) == _file(_experiment())


async def test_one_that_ended_is_not_begun_again(engine):
    await store.apply(engine, _file(_experiment()))
    await store.end(engine, "dpo-1", "warm won.")

    assert await store.apply(engine, _file(_experiment())) == []
    assert (await store.running(engine)).experiments == []
    with pytest.raises(ConfigurationError, match="has ended on"):
        await store.apply(engine, _file(_experiment(share=0.5)))


@pytest.mark.parametrize(
    ("other", "said"),
    [({}, "both set temperature for the same lists"), ({"tasks": ["hint"], "salt": "dpo-1"}, "the same salt")],
)
async def test_two_that_contradict_run_one_after_the_other(engine, other, said):
    first, second = _experiment(), _experiment("dpo-2", **other)

    with pytest.raises(ConfigurationError, match=said):
        await store.apply(engine, _file(first, second))
    assert (await store.running(engine)).experiments == []
    await store.apply(engine, _file(first))
    with pytest.raises(ConfigurationError, match=said):
        await store.apply(engine, _file(first, second))
    await store.end(engine, "dpo-1", "warm won.")

    assert await store.apply(engine, _file(first, second)) == ["dpo-2 runs."]  # the first may stay in the file


async def test_a_policy_must_be_registered_and_for_the_task(engine, tmp_path):
    await registry.register(engine, version="night-1", kind="policy", task="hint", directory=model(tmp_path, "night-1"))
    arms = [Arm(name="control", weight=0.5), Arm(name="new", weight=0.5, policy="night-1")]

    with pytest.raises(ConfigurationError, match="'night-2', which is not registered"):
        await store.apply(engine, _file(holdout=Holdout(share=0.1, policy="night-2")))
    with pytest.raises(ConfigurationError, match=r"writes hint only. Write `tasks: \[hint\]`"):
        await store.apply(engine, _file(Experiment(id="a", arms=arms)))
    assert await store.apply(engine, _file(Experiment(id="a", arms=arms, tasks=["hint"]))) == ["a runs."]


async def test_what_a_job_started_goes_on_whatever_the_file_says(engine):
    await store.start(engine, _experiment("night-1"))
    await store.start(engine, _experiment("night-1"))

    await store.apply(engine, _file())

    assert [each.id for each in (await store.running(engine)).experiments] == ["night-1"]
    with pytest.raises(ConfigurationError, match="both set temperature"):
        await store.apply(engine, _file(_experiment("mine")))


async def test_ending_what_does_not_run_is_refused(engine):
    with pytest.raises(ConfigurationError, match="No experiment 'dpo-1' runs"):
        await store.end(engine, "dpo-1", "")
