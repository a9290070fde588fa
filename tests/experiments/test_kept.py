"""The file is followed while it is right; whatever goes wrong, what was in force stays in force."""

import pytest

from service.contract import registry
from service.experiments import store
from service.experiments.definitions import Arm, Experiment
from service.experiments.kept import KeptExperiments
from tests.contract.test_registry import model

FILE = """
experiments:
  - id: warm-1
    arms: [{name: control, weight: 0.5}, {name: warm, weight: 0.5, temperature: 0.9}]
"""
UNITS = {"user": "u-1", "session": None, "request": "r-1"}


@pytest.fixture
async def kept(engine, tmp_path):
    return KeptExperiments(engine, tmp_path / "experiments.yaml")


def _write(kept, text):
    kept._file.write_text(text)


async def test_without_a_file_there_are_none_and_nothing_is_wrong(kept):
    await kept.refresh()

    assert kept.problem is None
    assert kept.assigner.assign("suggest", UNITS).arm == "control"


async def test_a_file_is_followed(kept):
    _write(kept, FILE)
    await kept.refresh()

    assert kept.problem is None
    assert kept.assigner.assign("suggest", UNITS).arm.startswith("warm-1=")

    _write(kept, "experiments: []")
    await kept.refresh()

    assert kept.assigner.assign("suggest", UNITS).arm == "control"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot be read"),
        ("experiments: [", "is no YAML"),
        (FILE.replace("0.5", "0.4"), "come to 0.8"),
        (FILE.replace("0.9", "0.8"), "warm-1 runs, and another arms"),
        (
            FILE + "  - {id: b, arms: [{name: a, weight: 0.5}, {name: b, weight: 0.5, policy: no-1}]}",
            "'no-1', which is not",
        ),
    ],
)
async def test_a_file_that_is_refused_leaves_what_ran(kept, text, said, engine):
    _write(kept, FILE)
    await kept.refresh()
    before = kept.now

    if text is None:
        kept._file.unlink()
    else:
        _write(kept, text)
    await kept.refresh()
    again = KeptExperiments(engine, kept._file)  # as after a restart
    await again.refresh()

    assert said in kept.problem
    assert kept.now == again.now == before
    assert kept.problem == again.problem


async def test_a_policy_that_is_registered_later_lets_the_file_in(kept, engine, tmp_path):
    _write(kept, FILE.replace("temperature: 0.9", "policy: night-1"))
    await kept.refresh()
    assert "night-1" in kept.problem

    await registry.register(engine, version="night-1", kind="policy", task="*", directory=model(tmp_path, "night-1"))
    await kept.refresh()

    assert kept.problem is None
    assert kept.policies == {"night-1"}


async def test_what_another_process_starts_and_ends_is_followed(kept, engine):
    arms = [Arm(name="control", weight=0.5), Arm(name="best", weight=0.5, rerank="best_of", best_of=4)]
    await store.start(engine, Experiment(id="night-1", arms=arms))
    await kept.refresh()
    assert [each.id for each in kept.now.experiments] == ["night-1"]
    assert kept.needs_predictor

    await store.end(engine, "night-1", "best won.")
    await kept.refresh()

    assert kept.now.experiments == []
    assert not kept.needs_predictor


async def test_a_database_that_is_away_changes_nothing(kept, engine):
    _write(kept, FILE)
    await kept.refresh()
    before = kept.assigner
    away = KeptExperiments(engine, kept._file)
    away.now, away.assigner = kept.now, before

    class Away:
        dialect = engine.dialect

        def connect(self):
            raise OSError("no route to host")

        begin = connect

    away._database = Away()
    await away.refresh()

    assert "did not answer" in away.problem
    assert away.assigner is before
