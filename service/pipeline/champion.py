"""The champion of a kind, kept open: a newer one replaces it without a restart, a damaged one never does.

It knows nothing about what is opened, nor about the registry.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from service.contract.errors import ArtifactError, NextQueryError

_LOG = logging.getLogger(__name__)
_FIRST_PAUSE_S = 1.0


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

    `newest`: the version of the champion and how to open it; None where there is no champion, and then what serves goes
    on, unless it `may_end`. `longest_pause_s`: one that was refused is tried again after pauses that grow up to this.
    `close_after_s`: longer than any request, so that those that asked the old one are done with it.
    """

    def __init__(
        self,
        name: str,
        newest: Newest[OpenedT],
        *,
        longest_pause_s: float = 0.0,
        close_after_s: float = 15.0,
        may_end: bool = False,
    ) -> None:
        self._name = name
        self._newest = newest
        self._may_end = may_end
        self._longest_pause_s = longest_pause_s
        self._close_after_s = close_after_s
        self._refused: _Refused | None = None
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
            self.problem = self._refused = None
            if newest is None and self._may_end:
                self.retire()
            return
        if self._refused and self._refused.rests(newest[0]):
            return
        try:
            fresh = await self._open(*newest)
        except Exception:
            self._refused = _Refused.again(self._refused, newest[0], self._longest_pause_s)
            raise
        if fresh is not None:
            self._put_in_service(fresh)

    async def _open(self, version: str, open_it: Callable[[], Awaitable[OpenedT]]) -> OpenedT | None:
        """The version, opened; None where another one became champion meanwhile, as after a rollback."""
        fresh = await open_it()
        try:
            if fresh.version != version:
                raise ArtifactError(
                    f"The directory of {version} holds {fresh.version}. Restore it from a backup, or promote another one."
                )
            newest = await self._newest()
        except BaseException:
            await fresh.close()
            raise
        if newest is not None and newest[0] == version:
            return fresh
        await fresh.close()
        return None

    def _put_in_service(self, fresh: OpenedT) -> None:
        old, self.now = self.now, fresh
        self.problem = self._refused = None
        _LOG.info("%s %s is in service.", self._name, fresh.version)
        if old is not None:
            self._close_soon(old)

    def _close_soon(self, old: OpenedT) -> None:
        closing = asyncio.create_task(_close_later(old, self._close_after_s))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    def _keep(self, problem: str) -> None:
        if problem != self.problem:
            _LOG.error("%s %s stays in service: %s", self._name, self.version or "none", problem)
        self.problem = problem

    def retire(self) -> None:
        """Serve no longer; what served is let go of once nobody asks it any more."""
        old, self.now = self.now, None
        if old is not None:
            self._close_soon(old)

    async def close(self) -> None:
        """Let go of what serves, and of what served."""
        for closing in self._closing:
            closing.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
        if self.now is not None:
            await self.now.close()


@dataclass(frozen=True, slots=True)
class _Refused:
    """A version that was refused, and when it may be tried again (monotonic seconds)."""

    version: str
    pause_s: float
    until: float

    @classmethod
    def again(cls, before: "_Refused | None", version: str, longest_pause_s: float) -> "_Refused":
        is_same = before is not None and before.version == version
        pause_s = min(2 * before.pause_s if before and is_same else _FIRST_PAUSE_S, longest_pause_s)
        return cls(version, pause_s, time.monotonic() + pause_s)

    def rests(self, version: str) -> bool:
        return version == self.version and time.monotonic() < self.until


async def _close_later(opened: Opened, seconds: float) -> None:
    try:
        await asyncio.sleep(seconds)
    finally:
        await opened.close()
