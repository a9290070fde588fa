"""Keeps an engine alive: starts it in the background, proves that it answers, replaces it when it dies or freezes.

It knows nothing about what the engine is, nor about HTTP.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

from service.contract.engine import Adapter, Completion, Engine, Sampling
from service.contract.errors import EngineBusy, EngineError, EngineFrozen, EngineUnavailable
from service.contract.settings import Timeouts

_LOG = logging.getLogger(__name__)
_LONGEST_PAUSE_S = 30.0
_PROVEN_AFTER_S = 60.0  # an engine that lived this long starts the pauses afresh
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class EngineState:
    """What the engine is doing. `since`: when it began to; `error`: why it was down last; `starts`: tries so far."""

    phase: Literal["starting", "ready", "down", "off"]
    since: datetime
    error: str | None = None
    starts: int = 0


class SupervisedEngine:
    """An engine that comes back. `start` returns at once; `state` says when it is ready."""

    def __init__(
        self,
        factory: Callable[[], Engine],
        *,
        timeouts: Timeouts,
        queue: int,
        on_state: Callable[[EngineState], None] | None = None,
    ) -> None:
        """`factory` makes a fresh engine for every start; `queue` is how many requests may be inside at once."""
        self.name = "supervised"
        self.state = EngineState("off", datetime.now(UTC))
        self._factory, self._timeouts, self._queue = factory, timeouts, queue
        self._on_state = on_state or (lambda state: None)
        self._engine: Engine | None = None
        self._gone: asyncio.Future[None] | None = None  # settled when the engine of now is given up
        self._suspect: asyncio.Future[Exception] | None = None  # settled by a request that found it dead
        self._tasks: set[asyncio.Task[Any]] = set()
        self._in_flight = 0
        self._answers = 0
        self._keeper: asyncio.Task[None] | None = None
        self._ready, self._down = asyncio.Event(), asyncio.Event()

    @property
    def in_flight(self) -> int:
        """Requests inside the engine now."""
        return self._in_flight

    async def start(self) -> None:
        """Begin to load the engine, and return at once."""
        if self._keeper is None:
            self.state = EngineState("starting", datetime.now(UTC))  # until its first try begins
            self._keeper = asyncio.create_task(self._keep(), name="engine-keeper")

    async def wait_ready(self, timeout_s: float, *, patient: bool = True) -> None:
        """Return when the engine is ready.

        Raises:
            EngineUnavailable: It is not after `timeout_s`; where not `patient`, also when it went down meanwhile.
        """
        awaited = [self._ready] if patient else [self._ready, self._down]
        waiting = [self._task(event.wait()) for event in awaited]
        try:
            await asyncio.wait(waiting, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waiting:
                each.cancel()
        if not self._ready.is_set():
            raise self._unavailable()

    async def generate(
        self, request_id: str, prompt_token_ids: Sequence[int], sampling: Sampling, adapter: Adapter | None = None
    ) -> list[Completion]:
        """As the engine's own; besides, `EngineBusy` at once where the queue is full."""
        engine, gone, suspect = self._engine, self._gone, self._suspect
        if engine is None or gone is None or suspect is None:
            raise self._unavailable()
        if self._in_flight >= self._queue:
            raise EngineBusy(
                f"The engine has {self._in_flight} requests, as many as it may. Try again in a second, or raise "
                "NEXTQUERY_ENGINE_QUEUE."
            )
        self._in_flight += 1
        work = self._task(engine.generate(request_id, prompt_token_ids, sampling, adapter))
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise self._unavailable()
            answer = work.result()
            self._answers += 1
            return answer
        except EngineUnavailable as error:
            if not suspect.done():
                suspect.set_result(error)
            raise
        finally:
            self._in_flight -= 1
            work.cancel()

    async def check(self) -> None:
        """The engine's own check, or `EngineUnavailable` where there is none now."""
        if self._engine is None:
            raise self._unavailable()
        await self._engine.check()

    async def drop(self, adapter: Adapter) -> None:
        """The engine's own, bounded by `Timeouts.engine_canary_s`; an engine that is away has none loaded."""
        if self._engine is not None:
            with suppress(EngineError):
                await self._bounded(self._engine.drop(adapter), self._timeouts.engine_canary_s)

    async def close(self) -> None:
        """End the engine and every task of this object; bounded by `Timeouts.shutdown_s`."""
        self._enter("off")
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.wait((keeper,), timeout=2 * self._timeouts.shutdown_s)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._timeouts.shutdown_s)

    async def _keep(self) -> None:
        pause_s = self._timeouts.engine_restart_pause_s
        while True:
            lived_s = await self._live()
            if lived_s > _PROVEN_AFTER_S:
                pause_s = self._timeouts.engine_restart_pause_s
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _live(self) -> float:
        """One engine from its start to its end. Returns the seconds that it was ready."""
        loop = asyncio.get_running_loop()
        began: float | None = None
        engine: Engine | None = None
        self._enter("starting", error=self.state.error)
        try:
            engine = self._factory()
            await self._bounded(engine.start(), self._timeouts.engine_start_s)
            began = loop.time()
            suspect = self._open(engine)
            self._went_down(await self._watch(engine, suspect))
        except Exception as error:
            self._went_down(error)
        finally:
            self._give_up()
            lived_s = loop.time() - began if began is not None else 0.0
            if engine is not None:
                await self._discard(engine)
        return lived_s

    async def _watch(self, engine: Engine, suspect: "asyncio.Future[Exception]") -> Exception:
        """Return, with the reason, when the engine is dead or frozen."""
        while True:
            await asyncio.wait((suspect,), timeout=self._timeouts.engine_canary_every_s)
            if suspect.done():
                return suspect.result()
            canary = self._task(engine.check())
            try:
                await self._answered(canary, suspect)
            except Exception as error:
                return error
            finally:
                canary.cancel()

    async def _answered(self, canary: "asyncio.Task[None]", suspect: "asyncio.Future[Exception]") -> None:
        """Return when the canary did. An engine under load may keep it waiting while it answers others."""
        canary_s = self._timeouts.engine_canary_s
        while not canary.done() and not suspect.done():
            answers = self._answers
            await asyncio.wait((canary, suspect), timeout=canary_s, return_when=asyncio.FIRST_COMPLETED)
            if not canary.done() and not suspect.done() and self._answers == answers:
                raise EngineFrozen(f"The engine answered nothing for {canary_s} s. It is killed and started again.")
        if suspect.done():
            raise suspect.result()
        canary.result()

    async def _discard(self, engine: Engine) -> None:
        with suppress(Exception):  # a wedged engine must not keep the next one from starting
            await self._bounded(engine.close(), self._timeouts.shutdown_s)

    async def _bounded(self, work: Coroutine[Any, Any, _T], seconds: float) -> _T:
        """Its result; after `seconds` it is cancelled, and not waited for even where it ignores that."""
        task = self._task(work)
        try:
            await asyncio.wait((task,), timeout=seconds)
            if not task.done():
                raise EngineUnavailable(f"The engine did not start or stop within {seconds} s. It is tried again.")
            return task.result()
        finally:
            task.cancel()

    def _open(self, engine: Engine) -> "asyncio.Future[Exception]":
        """Let requests in. Returns the future that one of them settles when it finds the engine dead."""
        loop = asyncio.get_running_loop()
        suspect: asyncio.Future[Exception] = loop.create_future()
        self._gone, self._suspect, self._engine = loop.create_future(), suspect, engine
        self._ready.set()
        self._down.clear()
        self._enter("ready", error=self.state.error)
        return suspect

    def _give_up(self) -> None:
        self._engine = self._suspect = None
        self._ready.clear()
        if self._gone is not None and not self._gone.done():
            self._gone.set_result(None)
        self._gone = None

    def _went_down(self, error: Exception) -> None:
        _LOG.error("engine down: %s", error)
        self._down.set()
        self._enter("down", error=f"{type(error).__name__}: {error}")

    def _enter(self, phase: Literal["starting", "ready", "down", "off"], error: str | None = None) -> None:
        starts = self.state.starts + (phase == "starting")
        self.state = EngineState(phase, datetime.now(UTC), error, starts)
        self._on_state(self.state)

    def _unavailable(self) -> EngineUnavailable:
        reason = f" ({self.state.error})" if self.state.error else ""
        return EngineUnavailable(f"The engine is {self.state.phase}{reason}. It comes back by itself; try again later.")

    def _task(self, work: Coroutine[Any, Any, _T]) -> "asyncio.Task[_T]":
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # read, so that asyncio does not report a request that nobody waits for
