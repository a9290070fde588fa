"""Co-occurrence queries of a request: from the build in service, which a newer one replaces without a restart.

It knows nothing about dictionaries and indexes, only the door `retrieval.searcher`.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection

from retrieval.searcher import Found, Searcher
from service.contract.errors import NextQueryError
from service.contract.prompt import UnifiedTask
from service.contract.types import EventSource, PromptContext

_LOG = logging.getLogger(__name__)
_CLOSE_AFTER_S = 15.0  # longer than any request: those that asked the old build are done with it


class CoOccurrence:
    """Asks the champion build. `version` is None while there is none; `problem` says why a newer one is not taken up.

    `newest`: the version of the champion and how to open it; None where there is no champion.
    """

    def __init__(
        self,
        newest: Callable[[], Awaitable[tuple[str, Callable[[], Awaitable[Searcher]]] | None]],
        *,
        tasks: Collection[str] = (),
        timeout_s: float = 0.1,
        refresh_s: float = 5.0,
    ) -> None:
        self._newest = newest
        self._tasks = frozenset(tasks)
        self._timeout_s = timeout_s
        self._refresh_s = refresh_s
        self._searcher: Searcher | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self.problem: str | None = None

    @property
    def version(self) -> str | None:
        """The build that answers."""
        return self._searcher.version if self._searcher else None

    async def search(self, task: UnifiedTask, context: PromptContext, *, within_s: float) -> tuple[Found, str | None]:
        """What people typed next, best first, and the version of the build that said so."""
        searcher, typed = self._searcher, _typed(context)
        if searcher is None or typed is None or task.name not in self._tasks:
            return Found(), None
        found = await searcher.search(typed, timeout_s=max(0.0, min(self._timeout_s, within_s)))
        return found, searcher.version

    async def keep_fresh(self) -> None:
        """Look for a new champion for ever; whatever goes wrong, the build in service stays."""
        while True:
            try:
                await self.refresh()
            except Exception as error:  # a damaged build may raise anything; it must not end the looking
                self._keep(f"{type(error).__name__}: {error}")
            await asyncio.sleep(self._refresh_s)

    async def refresh(self) -> None:
        """Take up the champion where it is not yet in service; one that is refused leaves the build in service."""
        try:
            newest = await self._newest()
            if newest is None or newest[0] == self.version:
                self.problem = None
                return
            fresh = await newest[1]()
        except NextQueryError as error:
            self._keep(str(error))
            return
        old, self._searcher, self.problem = self._searcher, fresh, None
        _LOG.info("Co-occurrence build %s is in service.", fresh.version)
        if old is not None:
            closing = asyncio.create_task(_close_later(old))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    def _keep(self, problem: str) -> None:
        if problem != self.problem:
            _LOG.error("The co-occurrence build in service stays (%s): %s", self.version or "none", problem)
        self.problem = problem

    async def close(self) -> None:
        """Let go of the build."""
        for closing in self._closing:
            closing.cancel()
        if self._searcher is not None:
            await self._searcher.close()


async def _close_later(searcher: Searcher) -> None:
    await asyncio.sleep(_CLOSE_AFTER_S)
    await searcher.close()


def _typed(context: PromptContext) -> str | None:
    """What was typed last, here or earlier; what the prompt takes as the query."""
    if context.query:
        return context.query
    if context.session:
        return context.session[-1]
    searches = [event.text for event in context.history if event.source is EventSource.SEARCH]
    return searches[-1] if searches else None
