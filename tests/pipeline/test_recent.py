"""The last requests of each task are what a new policy is warmed on."""

from service.contract.types import PromptContext
from service.pipeline.recent import RecentRequests


def _context(query: str) -> PromptContext:
    return PromptContext(n=3, query=query)


def test_before_anybody_asked_there_is_one_of_ours_for_the_task() -> None:
    recent = RecentRequests()

    ((any_task, _),) = recent.of("*")
    ((hint, _),) = recent.of("hint")

    assert (any_task, hint) == ("suggest", "hint")


def test_the_last_ones_are_kept_by_task() -> None:
    recent = RecentRequests()
    for number in range(20):
        recent.note("suggest", _context(f"rice {number}"))
    recent.note("hint", _context("beans"))

    assert [context.query for _, context in recent.of("suggest")] == [f"rice {number}" for number in range(12, 20)]
    assert [task for task, _ in recent.of("*")] == ["suggest"] * 8 + ["hint"]
    assert [context.query for _, context in recent.of("hint")] == ["beans"]
