"""The experiment file: what can be written, and what is refused in a sentence that says where."""

import pytest

from service.contract.errors import ConfigurationError
from service.experiments.definitions import read_experiments

GOOD = """
holdout: {share: 0.05, policy: starter-4-sft}
experiments:
  - id: dpo-1
    tasks: [suggest]
    share: 0.2
    arms:
      - {name: control, weight: 0.5}
      - {name: dpo, weight: 0.5, policy: night-3, temperature: 0.9}
  - id: shorter-deadline
    arms:
      - {name: control, weight: 0.9}
      - {name: fast, weight: 0.1, deadline_ms: 800}
"""


def _read(tmp_path, text):
    path = tmp_path / "experiments.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_experiments(path)


def test_a_good_file_is_read(tmp_path):
    found = _read(tmp_path, GOOD)

    assert [each.id for each in found.experiments] == ["dpo-1", "shorter-deadline"]
    assert found.experiments[0].arms[1].said() == {"policy": "night-3", "temperature": 0.9}
    assert found.experiments[0].changed == {"policy", "temperature"}
    assert found.holdout.said() == {"policy": "starter-4-sft"}
    assert found.experiments[0].runs_for("suggest")
    assert not found.experiments[0].runs_for("hint")
    assert found.experiments[1].runs_for("hint")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no `experiments:`"),
        ("- 1", "holds no `experiments:`"),
        ("experiments: [", "is no YAML at line 1"),
        (b"\xff\xfe\x00", "is no YAML"),
        ("experiments: [{id: a}]", "a.arms: Field required"),
        ("experiments: [{id: a, arms: []}]", "a.arms: List should have at least 2 items"),
        ("experiments: [{id: A b, arms: []}]", "A b.id: String should match pattern"),
        (
            GOOD.replace("0.9}\n      - {name: fast", "0.8}\n      - {name: fast"),
            "shorter-deadline come to 0.9: they must",
        ),
        (GOOD.replace("name: dpo,", "name: control,"), "two arms of dpo-1 are called control"),
        (GOOD.replace("[suggest]", "[sugest]"), "'sugest' of dpo-1 is no task: there are clarify"),
        (GOOD.replace("id: shorter-deadline", "id: dpo-1"), "two experiments are called dpo-1"),
        (
            GOOD.replace("temperature: 0.9", "temperature: warm"),
            "dpo-1.arms.2.temperature: Input should be a valid number",
        ),
        (GOOD.replace("temperature: 0.9", "heat: 1"), "dpo-1.arms.2.heat: Extra inputs are not permitted"),
        (GOOD.replace("share: 0.2", "share: 0"), "dpo-1.share: Input should be greater than 0"),
        (GOOD.replace("share: 0.2", "share: .nan"), "dpo-1.share: Input should be"),
    ],
)
def test_a_file_that_says_what_cannot_be_is_refused(tmp_path, text, said):
    with pytest.raises(ConfigurationError, match="experiment file") as refused:
        _read(tmp_path, text)

    assert said in str(refused.value)


def test_a_missing_file_is_refused_with_the_way_to_end_all(tmp_path):
    with pytest.raises(ConfigurationError, match=r"cannot be read.*`experiments: \[\]`"):
        read_experiments(tmp_path / "none.yaml")


def test_experiments_of_different_tasks_may_change_the_same(tmp_path):
    text = GOOD.replace("id: shorter-deadline", "id: other\n    tasks: [hint]").replace("deadline_ms: 800", "policy: x")

    assert len(_read(tmp_path, text).experiments) == 2
