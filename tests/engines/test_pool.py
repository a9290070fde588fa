"""One engine for each model in service, from its first lease to its last."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from service.contract.engine import Adapter, Sampling
from service.contract.errors import EngineUnavailable
from service.contract.settings import Timeouts
from service.engines.limits import ModelLimits
from service.engines.pool import EngineLease, EnginePool
from service.engines.scripted import Scripted

ONE = Sampling(max_tokens=4)
BASE, OTHER = Path("/models/base"), Path("/models/other")
FIRST, SECOND = Adapter("a-1", 1, "/a-1"), Adapter("a-2", 2, "/a-2")


class Stage:
    """A pool that makes scripted engines, and remembers them by their model."""

    def __init__(self, *, off: bool = False) -> None:
        self.made: list[tuple[Path, Scripted]] = []
        self.pool = EnginePool(self._make, timeouts=Timeouts(), queue=4, off=off)

    def _make(self, model: Path) -> Scripted:
        engine = Scripted([5, 6, 7], ModelLimits(context_tokens=64, vocabulary=100, end_ids=frozenset({2})))
        self.made.append((model, engine))
        return engine

    async def lease(self, model: Path, adapter: Adapter | None = None) -> EngineLease:
        lease = await self.pool.lease(model, adapter)
        await lease.engine.wait_ready(2)
        return lease


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    stage = Stage()
    yield stage
    for engine in stage.pool.engines:
        await engine.close()


async def test_adapters_on_one_model_share_its_engine(stage: Stage) -> None:
    leases = [await stage.lease(BASE, adapter) for adapter in (None, FIRST, SECOND)]

    assert len({id(lease.engine) for lease in leases}) == 1
    assert [model for model, _ in stage.made] == [BASE]


async def test_another_model_gets_another_engine_and_the_old_one_is_closed_after_its_last_lease(stage: Stage) -> None:
    leases = [await stage.lease(BASE), await stage.lease(BASE, FIRST), await stage.lease(OTHER)]
    (_, base), (_, other) = stage.made

    await leases[0].close()
    await leases[0].close()
    after_one = base.closes
    await leases[1].close()

    assert (after_one, base.closes, other.closes) == (0, 1, 0)
    assert stage.pool.engines == [leases[2].engine]
    assert (await leases[2].engine.generate("still", [1], ONE))[0].token_ids == (5, 6, 7)


async def test_an_adapter_is_dropped_after_its_last_lease_and_not_before(stage: Stage) -> None:
    leases = [await stage.lease(BASE, adapter) for adapter in (FIRST, FIRST, SECOND)]
    for k, adapter in enumerate((FIRST, SECOND)):
        await leases[0].engine.generate(f"g{k}", [1], ONE, adapter)
    (_, engine) = stage.made[0]

    await leases[0].close()
    still = set(engine.adapters)
    await leases[1].close()

    assert (still, engine.adapters) == ({FIRST, SECOND}, {SECOND})


async def test_a_model_that_comes_back_gets_a_fresh_engine(stage: Stage) -> None:
    await (await stage.lease(BASE)).close()

    again = await stage.lease(BASE)

    assert [engine.closes for _, engine in stage.made] == [1, 0]
    assert await again.engine.generate("again", [1], ONE)


async def test_one_directory_by_two_names_is_one_model(stage: Stage, tmp_path: Path) -> None:
    model, link = tmp_path / "model", tmp_path / "link"
    model.mkdir()
    link.symlink_to(model)

    leases = [await stage.lease(model), await stage.lease(link)]

    assert leases[0].engine is leases[1].engine


async def test_switched_off_no_engine_is_ever_made() -> None:
    stage = Stage(off=True)

    lease = await stage.pool.lease(BASE, FIRST)
    with pytest.raises(EngineUnavailable):
        await lease.engine.generate("off", [1], ONE, FIRST)
    await lease.close()

    assert (stage.made, lease.engine.state.phase) == ([], "off")


async def test_dropping_at_a_frozen_engine_does_not_wait_for_ever() -> None:
    stage = Stage()
    stage.pool._timeouts = Timeouts(engine_canary_s=0.05)
    await stage.lease(BASE)
    lease = await stage.lease(BASE, FIRST)

    async def never(adapter: Adapter) -> None:
        await asyncio.sleep(60)

    stage.made[0][1].drop = never  # type: ignore[method-assign]
    async with asyncio.timeout(2):
        await lease.close()

    await lease.engine.close()
