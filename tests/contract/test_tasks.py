"""Each task is one file that says everything about itself."""

import pytest

from service.contract.errors import ConfigurationError
from service.contract.tasks import all_tasks, get_task


def test_the_five_tasks_are_found() -> None:
    assert sorted(all_tasks()) == ["clarify", "hint", "predict", "snippets", "suggest"]


@pytest.mark.parametrize("name", sorted(all_tasks()))
def test_a_task_is_consistent(name: str) -> None:
    task = get_task(name)

    assert task.name == name
    assert 1 <= task.default_n <= task.max_n
    assert "{n}" in task.instruction
    assert len(set(task.auxiliary)) == len(task.auxiliary)
    assert all(text == text.lower() and text.isalpha() for text in task.auxiliary)  # the parser compares lower case


@pytest.mark.parametrize("name", ["nothing", "", "../suggest", "__init__"])
def test_a_task_that_is_not_there_is_refused_with_those_that_are(name: str) -> None:
    with pytest.raises(ConfigurationError, match="clarify, hint, predict, snippets, suggest") as refused:
        get_task(name)

    assert not name or name not in str(refused.value)
