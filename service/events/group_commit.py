"""The durable writer: many callers share one transaction, and each hears back only after the commit.

It knows nothing about what the rows mean. One thread owns one connection; a batch is one statement a table.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from sqlalchemy.ext.asyncio import AsyncEngine

from service.contract.database import database_errors, timeouts_of
from service.contract.errors import DatabaseError, Overloaded, RowRefused
from service.events.inserter import Inserter, Outcome, Row, Write

__all__ = ["GroupCommit", "Outcome", "RowRefused", "Write"]

_LOG = logging.getLogger(__name__)
_STOPPING = "The service is stopping, and the row may not have been written. Send it again."
_CUT_S = 1.0  # for a connection that was cut to come back with its error


@dataclass(slots=True)
class _Unit:
    rows: list[Row]
    committed: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class GroupCommit:
    """Takes rows from many callers at once. While one batch commits, the next one gathers."""

    def __init__(self, database: AsyncEngine, *, most_queued: int = 8192, most_rows: int = 512) -> None:
        """Prepare; nothing is opened before `start`.

        Args:
            database: from `service.contract.database.create`; the writer opens a connection of its own beside it.
            most_queued: rows that may wait; more are refused with Overloaded.
            most_rows: rows of one batch, give or take the last caller's.
        """
        timeouts = timeouts_of(database)
        self._statement_s = timeouts.database_statement_s
        self._open_s = timeouts.database_connect_s + timeouts.database_statement_s
        self._inserter = Inserter(database)
        self._most_queued = most_queued
        self._most_rows = most_rows
        self._queue: deque[_Unit] = deque()
        self._queued = 0
        self._wanted = asyncio.Event()
        self._away: str | None = None
        self._closing = False
        self._task: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="group-commit")

    @property
    def queued(self) -> int:
        """Rows that wait for their commit now."""
        return self._queued

    async def start(self) -> None:
        """Connect and begin to write. When the database is away, writes are refused until it is back."""
        try:
            await self._in_thread(self._inserter.open, self._open_s)
        except DatabaseError as error:
            self._away = str(error)
        self._task = asyncio.create_task(self._run(), name="group-commit")

    async def close(self) -> None:
        """Commit what was accepted, then disconnect. May be called twice, and without `start`."""
        self._closing = True
        self._wanted.set()
        if self._task and not self._task.done():
            if self._away is None:
                await asyncio.wait([self._task], timeout=self._statement_s)
            self._task.cancel()
            await asyncio.wait([self._task], timeout=_CUT_S)
        self._refuse(self._take(self._most_queued), _STOPPING)
        with suppress(DatabaseError, RuntimeError):
            await self._in_thread(self._inserter.close, _CUT_S)
        self._thread.shutdown(wait=False)

    async def write(self, write: Write) -> Outcome:
        """Return STORED or DUPLICATE, after the commit. A caller that is cancelled leaves its row in the batch.

        Raises:
            RowRefused: The database cannot hold the row.
            DatabaseError: The database is away; the row may or may not be there, and may be sent again.
            Overloaded: Too many rows wait.
        """
        row = self._inserter.encode(write)
        await self._enqueue([row])
        if row.outcome is Outcome.REFUSED or row.outcome is None:
            raise RowRefused(
                f"A row for {write.table} was refused by the database. Usually a value is too long or null."
            )
        return row.outcome

    async def write_many(self, writes: Sequence[Write]) -> list[Outcome]:
        """Return the outcome of each, after the commit of all; a row that cannot be held is REFUSED, never raised.

        Raises:
            DatabaseError: As `write`; some rows may be there, and all may be sent again.
            Overloaded: Too many rows wait; none was taken.
        """
        rows = [self._try_encode(write) for write in writes]
        good = [row for row in rows if row]
        if good:
            await self._enqueue(good)
        return [(row.outcome if row else None) or Outcome.REFUSED for row in rows]

    def _try_encode(self, write: Write) -> Row | None:
        try:
            return self._inserter.encode(write)
        except RowRefused:
            return None

    async def _enqueue(self, rows: list[Row]) -> None:
        if self._away is not None:
            raise DatabaseError(self._away)
        if self._closing or self._queued + len(rows) > self._most_queued:
            raise Overloaded("The writer cannot take more rows now. Send them again after the pause.")
        unit = _Unit(rows)
        self._queue.append(unit)
        self._queued += len(rows)
        self._wanted.set()
        await unit.committed

    async def _run(self) -> None:
        if self._away is not None:
            await self._reconnect(self._away)
        while not (self._closing and not self._queue):
            await self._wanted.wait()
            await asyncio.sleep(0)  # callers that the last commit woke join this batch
            batch = self._take(self._most_rows)
            rows = [row for unit in batch for row in unit.rows]
            try:
                await self._in_thread(partial(self._inserter.insert, rows), self._statement_s)
            except asyncio.CancelledError:
                self._refuse(batch, _STOPPING)
                raise
            except Exception as error:  # not only DatabaseError: nobody may wait for a writer that died
                _LOG.warning("Writes are refused until the database is back: %s", error)
                self._refuse(batch, str(error))
                await self._reconnect(str(error))
                _LOG.warning("The database is back; writes are taken again.")
            for unit in batch:
                if not unit.committed.done():
                    unit.committed.set_result(None)

    def _take(self, most_rows: int) -> list[_Unit]:
        batch: list[_Unit] = []
        taken = 0
        while self._queue and taken < most_rows:
            batch.append(self._queue.popleft())
            taken += len(batch[-1].rows)
        self._queued -= taken
        if not self._queue and not self._closing:
            self._wanted.clear()
        return batch

    def _refuse(self, units: Sequence[_Unit], why: str) -> None:
        for unit in units:
            if not unit.committed.done():
                unit.committed.set_exception(DatabaseError(why))

    async def _reconnect(self, why: str) -> None:
        self._away = why
        self._refuse(self._take(self._most_queued), why)
        pause_s = 0.05
        while True:
            await asyncio.sleep(pause_s)
            try:
                await self._in_thread(self._inserter.open, self._open_s)
                break
            except Exception as error:
                self._away = str(error)
                pause_s = min(2 * pause_s, 1.0)
        self._away = None

    async def _in_thread(self, work: Callable[[], None], timeout_s: float) -> None:
        """Run `work` beside the event loop; when it hangs, cut the connection under it."""
        running = asyncio.get_running_loop().run_in_executor(self._thread, work)
        done, _ = await asyncio.wait([running], timeout=timeout_s + _CUT_S)
        if not done:
            self._inserter.cut()
            await asyncio.wait([running], timeout=_CUT_S)
        if not running.done():
            running.cancel()
            raise DatabaseError(f"The database did not answer within {timeout_s:g} s. Check that it is not frozen.")
        with database_errors("rows were written"):
            running.result()
