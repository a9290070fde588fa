"""The supervisor with an engine that fails on command."""

import asyncio
import time
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest

from service.contract.engine import Sampling
from service.contract.errors import EngineBusy, EngineUnavailable
from service.contract.settings import Timeouts
from service.engines.limits import ModelLimits
from service.engines.scripted import Scripted
from service.engines.supervisor import EngineState, SupervisedEngine

FAST = Timeouts(
    engine_canary_s=0.1, engine_canary_every_s=0.05, engine_restart_pause_s=0.02, engine_start_s=1, shutdown_s=0.3
)
LIMITS = ModelLimits(context_tokens=64, vocabulary=100, end_ids=frozenset({2}))
ONE = Sampling(max_tokens=4)


class Stage:
    """Makes scripted engines and remembers them, and what the supervisor said."""

    def __init__(self) -> None:
        self.engines: list[Scripted] = []
        self.states: list[EngineState] = []
        self.failing_starts = 0
        self.start_delay_s = 0.0
        self.supervised = SupervisedEngine(self.make, timeouts=FAST, queue=2, on_state=self.states.append)

    def make(self) -> Scripted:
        engine = Scripted([5, 6, 7], LIMITS)
        engine.start_delay_s = self.start_delay_s
        if len(self.engines) < self.failing_starts:
            engine.fail_start = EngineUnavailable("The model file is gone.")
        self.engines.append(engine)
        return engine

    async def ready(self) -> Scripted:
        await self.supervised.start()
        await self.supervised.wait_ready(2)
        return self.engines[-1]

    async def started(self, times: int) -> None:
        while self.supervised.state.starts < times:
            await asyncio.sleep(0.005)
        await self.supervised.wait_ready(2)


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    stage = Stage()
    yield stage
    await stage.supervised.close()


async def test_start_returns_before_the_model_is_loaded(stage: Stage) -> None:
    stage.start_delay_s = 0.2

    await stage.supervised.start()
    await asyncio.sleep(0.01)

    assert stage.supervised.state.phase == "starting"
    with pytest.raises(EngineUnavailable, match="starting"):
        await stage.supervised.generate("a", [1], ONE)
    await stage.supervised.wait_ready(2)
    assert (await stage.supervised.generate("a", [1], ONE))[0].token_ids == (5, 6, 7)


async def test_a_frozen_engine_is_replaced_and_its_requests_fail(stage: Stage) -> None:
    first = await stage.ready()
    first.frozen = True

    with pytest.raises(EngineUnavailable):
        await asyncio.wait_for(stage.supervised.generate("a", [1], ONE), 2)
    await stage.supervised.wait_ready(2)

    assert len(stage.engines) == 2
    assert first.closes == 1
    assert "EngineFrozen" in (stage.supervised.state.error or "")
    assert (await stage.supervised.generate("b", [1], ONE))[0].finish_reason == "stop"


async def test_a_busy_engine_that_still_answers_others_is_left_alone(stage: Stage) -> None:
    first = await stage.ready()
    first.delay_s = 0.02

    async def slow_check() -> None:
        await asyncio.sleep(0.4)

    first.check = slow_check  # type: ignore[method-assign]
    for k in range(25):
        await stage.supervised.generate(f"r{k}", [1], ONE)

    assert len(stage.engines) == 1


@pytest.mark.alone
async def test_a_dead_engine_is_replaced_at_once(stage: Stage) -> None:
    first = await stage.ready()
    first.fail_next = [EngineUnavailable("The process is gone.")]

    with pytest.raises(EngineUnavailable):
        await stage.supervised.generate("a", [1], ONE)
    began = time.monotonic()
    await stage.started(2)

    assert time.monotonic() - began < 0.5
    assert stage.engines[0].closes == 1


async def test_a_full_queue_refuses_at_once(stage: Stage) -> None:
    first = await stage.ready()
    first.delay_s = 0.08
    waiting = [asyncio.create_task(stage.supervised.generate(f"r{k}", [1], ONE)) for k in range(2)]
    await asyncio.sleep(0.01)

    with pytest.raises(EngineBusy, match="NEXTQUERY_ENGINE_QUEUE"):
        await stage.supervised.generate("third", [1], ONE)

    assert len(await asyncio.gather(*waiting)) == 2
    assert stage.supervised.in_flight == 0


async def test_pauses_between_failed_starts_grow(stage: Stage) -> None:
    stage.failing_starts = 4

    await stage.ready()
    starts = [state.since for state in stage.states if state.phase == "starting"]
    pauses = [(b - a).total_seconds() for a, b in pairwise(starts)]

    assert len(stage.engines) == 5
    for pause, least in zip(pauses, (0.02, 0.04, 0.08, 0.16), strict=True):
        assert pause >= least * 0.9
    assert "model file is gone" in (stage.supervised.state.error or "")


async def test_a_client_that_leaves_aborts_its_request(stage: Stage) -> None:
    first = await stage.ready()
    first.delay_s = 5
    request = asyncio.create_task(stage.supervised.generate("a", [1], ONE))
    await asyncio.sleep(0.02)

    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    await asyncio.sleep(0.02)

    assert first.cancelled >= 1
    assert stage.supervised.in_flight == 0


async def test_an_engine_that_will_not_close_does_not_stop_the_next(stage: Stage) -> None:
    first = await stage.ready()

    async def never() -> None:
        await asyncio.sleep(60)

    first.close = never  # type: ignore[method-assign]
    first.frozen = True
    await stage.started(2)

    assert len(stage.engines) == 2


async def test_closing_while_starting_leaves_no_task(stage: Stage) -> None:
    before = asyncio.all_tasks()
    stage.start_delay_s = 30
    await stage.supervised.start()
    await asyncio.sleep(0.02)

    await stage.supervised.close()
    await asyncio.sleep(0.02)

    assert asyncio.all_tasks() == before
    assert stage.supervised.state.phase == "off"
    assert stage.engines[0].closes == 1


async def test_closing_fails_requests_in_flight_and_may_be_repeated(stage: Stage) -> None:
    first = await stage.ready()
    first.delay_s = 30
    request = asyncio.create_task(stage.supervised.generate("a", [1], ONE))
    await asyncio.sleep(0.02)

    await stage.supervised.close()
    await stage.supervised.close()

    with pytest.raises(EngineUnavailable, match="off"):
        await request


async def test_an_impatient_wait_ends_when_the_engine_goes_down_and_a_patient_one_when_it_is_back(stage: Stage) -> None:
    stage.failing_starts = 1
    await stage.supervised.start()

    with pytest.raises(EngineUnavailable, match="model file is gone"):
        await stage.supervised.wait_ready(2, patient=False)
    await stage.supervised.wait_ready(2)
    await stage.supervised.wait_ready(2, patient=False)

    assert len(stage.engines) == 2
