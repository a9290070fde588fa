"""The champion of a kind, kept open: a newer one replaces it without a restart, a damaged one never does.

It knows nothing about what is opened, nor about the registry.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

from service.contract.errors import ArtifactError, NextQueryError

_LOG = logging.getLogger(__name__)
_CLOSE_AFTER_S = 15.0  # longer than any request: those that asked the old one are done with it


class Opened(Protocol):
    """A published version that was opened."""

    @property
    def version(self) -> str:
        """The name that it was published under."""

    async def close(self) -> None:
        """Let go of it; nobody asks it any more."""


OpenedT = TypeVar("OpenedT", bound=Opened)
Newest = Callable[[], Awaitable[tuple[str, Callable[[], Awaitable[OpenedT]]] | None]]


class KeptChampion(Generic[OpenedT]):
    """What serves as `name`. `now` is None while there is none; `problem` says why a newer one is not taken up.

    `newest`: the version of the champion and how to open it; None where there is no champion.
    """

    def __init__(self, name: str, newest: Newest[OpenedT]) -> None:
        self._name = name
        self._newest = newest
        self._closing: set[asyncio.Task[None]] = set()
        self.now: OpenedT | None = None
        self.problem: str | None = None

    @property
    def version(self) -> str | None:
        """The version that serves."""
        return self.now.version if self.now else None

    async def refresh(self) -> None:
        """Take up the champion where it is not yet in service; one that is refused leaves what is in service."""
        try:
            await self._take_up()
        except NextQueryError as error:
            self._keep(str(error))
        except Exception as error:  # a damaged one may raise anything; it must not end the looking
            self._keep(f"{type(error).__name__}: {error}")

    async def _take_up(self) -> None:
        newest = await self._newest()
        if newest is None or newest[0] == self.version:
            self.problem = None
            return
        fresh = await newest[1]()
        if fresh.version != newest[0]:
            await fresh.close()
            raise ArtifactError(
                f"The directory of {newest[0]} holds {fresh.version}. Restore it from a backup, or promote another one."
            )
        old, self.now, self.problem = self.now, fresh, None
        _LOG.info("%s %s is in service.", self._name, fresh.version)
        if old is not None:
            closing = asyncio.create_task(_close_later(old))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    def _keep(self, problem: str) -> None:
        if problem != self.problem:
            _LOG.error("%s %s stays in service: %s", self._name, self.version or "none", problem)
        self.problem = problem

    async def close(self) -> None:
        """Let go of what serves, and of what served."""
        for closing in self._closing:
            closing.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
        if self.now is not None:
            await self.now.close()


async def _close_later(opened: Opened) -> None:
    try:
        await asyncio.sleep(_CLOSE_AFTER_S)
    finally:
        await opened.close()
