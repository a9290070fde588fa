"""Looks at what may have changed, again and again, until asked to end.

It knows nothing about what is looked at.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable


class Looking:
    """Awaits each look over and over, with a pause between; no look waits for another.

    A look that is under way may finish: a statement of SQLite that is cancelled twice, as at the end of an event loop,
    leaves a task that never ends (aiosqlite 0.22 stops a connection's thread twice and waits for the second time).
    """

    def __init__(self) -> None:
        self._end = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def begin(self, look: Callable[[], Awaitable[None]], pause_s: float) -> None:
        """Look now, and from then on. `look` raises nothing that is not a bug."""
        self._tasks.append(asyncio.create_task(self._again(look, pause_s)))

    async def end(self, within_s: float) -> None:
        """Begin no more looks; those under way that take longer than `within_s` are cancelled."""
        self._end.set()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=within_s)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _again(self, look: Callable[[], Awaitable[None]], pause_s: float) -> None:
        while not self._end.is_set():
            await look()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._end.wait()
