"""The last requests of each task, so that a policy is warm for what people ask before it serves them.

It knows nothing about policies. What it keeps is in memory only.
"""

from collections import deque

from service.contract.registry import ANY_TASK
from service.contract.types import PromptContext

_KEPT = 8  # of each task
_UNTIL_SOMEBODY_ASKED = ("suggest", PromptContext(n=3, query="brown rice", session=("rice",)))

Asked = tuple[str, PromptContext]


class RecentRequests:
    """Contexts of the last requests, by task."""

    def __init__(self) -> None:
        self._of: dict[str, deque[PromptContext]] = {}

    def note(self, task: str, context: PromptContext) -> None:
        """Somebody asked this."""
        self._of.setdefault(task, deque(maxlen=_KEPT)).append(context)

    def of(self, task: str) -> list[Asked]:
        """The last requests of `task` ("*" is all), never none: before the first there is one that we made up."""
        tasks = self._of if task == ANY_TASK else [task]
        found = [(name, context) for name in tasks for context in self._of.get(name, ())]
        name, context = _UNTIL_SOMEBODY_ASKED
        return found or [(name if task == ANY_TASK else task, context)]
