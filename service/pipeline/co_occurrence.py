"""Co-occurrence queries of a request: from the build in service, which a newer one replaces without a restart.

It knows nothing about dictionaries and indexes, only the door `retrieval.searcher`.
"""

from collections.abc import Collection

from retrieval.searcher import Found, Searcher
from service.contract.prompt import UnifiedTask
from service.contract.types import EventSource, PromptContext
from service.pipeline.champion import KeptChampion, Newest


class CoOccurrence:
    """Asks the champion build. `newest`: the version of the champion and how to open it; None where there is none."""

    def __init__(
        self,
        newest: Newest[Searcher],
        *,
        tasks: Collection[str] = (),
        timeout_s: float = 0.1,
    ) -> None:
        self._build = KeptChampion("The co-occurrence build", newest)
        self._tasks = frozenset(tasks)
        self._timeout_s = timeout_s

    @property
    def version(self) -> str | None:
        """The build that answers, None while there is none."""
        return self._build.version

    @property
    def problem(self) -> str | None:
        """Why a newer build is not taken up."""
        return self._build.problem

    async def search(
        self, task: UnifiedTask, context: PromptContext, *, within_s: float, wanted: bool | None = None
    ) -> tuple[Found, str | None]:
        """What people typed next, best first, and the version of the build that said so.

        `wanted`: says for this request what else the tasks say.
        """
        searcher, typed = self._build.now, _typed(context)
        is_wanted = task.name in self._tasks if wanted is None else wanted
        if searcher is None or typed is None or not is_wanted:
            return Found(), None
        found = await searcher.search(typed, timeout_s=max(0.0, min(self._timeout_s, within_s)))
        return found, searcher.version

    async def refresh(self) -> None:
        """Take up the champion where it is not yet in service; one that is refused leaves the build in service."""
        await self._build.refresh()

    async def close(self) -> None:
        """Let go of the build."""
        await self._build.close()


def _typed(context: PromptContext) -> str | None:
    """What was typed last, here or earlier; what the prompt takes as the query."""
    if context.query:
        return context.query
    if context.session:
        return context.session[-1]
    searches = [event.text for event in context.history if event.source is EventSource.SEARCH]
    return searches[-1] if searches else None
