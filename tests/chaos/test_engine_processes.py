"""Real faults on a real vLLM engine: its process killed, frozen, and its parent killed."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from service.contract.engine import Sampling
from service.contract.errors import EngineUnavailable
from service.contract.settings import Settings
from service.engines import create_engine
from service.engines.supervisor import SupervisedEngine
from service.engines.vllm_local import VllmLocal
from tests import tiny_models

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.timeout(300),
    pytest.mark.skipif(find_spec("vllm") is None, reason="vllm is not installed"),
]
NOTICED_S, BACK_S, ORPHANS_S = 15.0, 30.0, 10.0  # promised in the table of faults
START_S = 120.0
SHORT = Sampling(max_tokens=8, exact_tokens=True)
PARENT = """
import asyncio, sys
from pathlib import Path
from service.contract.settings import Settings
from service.engines import create_engine

async def main():
    engine = create_engine("vllm_local", Path(sys.argv[1]), Settings(_env_file=None))
    await engine.start()
    print(*(process.pid for process in engine._processes.alive()), flush=True)
    await asyncio.sleep(600)

if __name__ == "__main__":
    asyncio.run(main())
"""


class Supervised:
    """A supervised vLLM engine, with a hand on the one of now."""

    def __init__(self, model: Path) -> None:
        self.model = model
        self.engines: list[VllmLocal] = []
        settings = Settings(_env_file=None)  # type: ignore[call-arg]
        self.engine = SupervisedEngine(lambda: self._make(settings), timeouts=settings.timeouts, queue=64)

    def _make(self, settings: Settings) -> VllmLocal:
        engine = create_engine("vllm_local", self.model, settings)
        assert isinstance(engine, VllmLocal)
        self.engines.append(engine)
        return engine

    def signal(self, number: int) -> list[psutil.Process]:
        processes = self.engines[-1]._processes.alive()
        for process in processes:
            process.send_signal(number)
        return processes


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_models.make_model(tmp_path / "model")


@pytest.fixture
async def supervised(model: Path) -> AsyncIterator[Supervised]:
    supervised = Supervised(model)
    await supervised.engine.start()
    await supervised.engine.wait_ready(START_S)
    yield supervised
    await supervised.engine.close()


def test_no_engine_process_outlives_a_killed_parent(model: Path, tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    parent = subprocess.Popen([sys.executable, str(script), str(model)], stdout=subprocess.PIPE, env=environment)
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    children = [process.pid for process in psutil.Process(parent.pid).children(recursive=True)]

    parent.kill()
    parent.wait()
    gone_s = _seconds_until_gone([*pids, *children])

    assert pids
    assert gone_s < ORPHANS_S


async def test_one_of_two_engines_is_closed_and_the_other_goes_on(model: Path, tmp_path: Path) -> None:
    settings = Settings(_env_file=None)  # type: ignore[call-arg]
    engines = [create_engine("vllm_local", model, settings) for _ in range(2)]

    await asyncio.gather(*(engine.start() for engine in engines))  # at once, and one after the other all the same
    first, second = engines
    owned = [{process.pid for process in engine._processes.alive()} for engine in engines]  # type: ignore[attr-defined]
    await first.close()
    gone = [psutil.pid_exists(pid) and _lives(pid) for pid in owned[0]]
    await asyncio.sleep(1.0)
    completions = await second.generate("still", [1], SHORT)
    await second.close()

    assert all(owned)
    assert owned[0].isdisjoint(owned[1])
    assert not any(gone)
    assert len(completions) == 1
    assert not any(_lives(pid) for pid in owned[1])


async def test_a_killed_engine_is_back_in_time(supervised: Supervised) -> None:
    request = asyncio.create_task(supervised.engine.generate("hit", [1] * 400, Sampling(max_tokens=100)))
    await asyncio.sleep(0.05)

    starts = supervised.engine.state.starts
    supervised.signal(signal.SIGKILL)
    began = time.monotonic()
    with pytest.raises(EngineUnavailable):
        await asyncio.wait_for(request, 6)
    await _until_started_again(supervised, starts)
    await supervised.engine.wait_ready(BACK_S)

    assert time.monotonic() - began < BACK_S
    assert len(await supervised.engine.generate("after", [1], SHORT)) == 1


async def test_a_frozen_engine_is_noticed_in_traffic_killed_and_replaced(supervised: Supervised) -> None:
    stop = asyncio.Event()
    traffic = [asyncio.create_task(_keep_asking(supervised.engine, stop, k)) for k in range(4)]
    await asyncio.sleep(0.3)

    starts = supervised.engine.state.starts
    frozen = supervised.signal(signal.SIGSTOP)
    began = time.monotonic()
    await _until_started_again(supervised, starts)
    noticed_s = time.monotonic() - began
    await supervised.engine.wait_ready(BACK_S + 5)
    back_s = time.monotonic() - began - noticed_s
    stop.set()
    await asyncio.gather(*traffic)

    assert noticed_s < NOTICED_S
    assert back_s < BACK_S
    assert frozen
    alive = [process for process in frozen if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    left = [(process.status(), process.cmdline()) for process in alive]
    assert not left
    assert len(await supervised.engine.generate("after", [1], SHORT)) == 1


async def _keep_asking(engine: SupervisedEngine, stop: asyncio.Event, number: int) -> None:
    while not stop.is_set():
        try:
            await engine.generate(f"t{number}", [1, 5, number], SHORT)
        except EngineUnavailable:
            await asyncio.sleep(0.05)


async def _until_started_again(supervised: Supervised, starts: int) -> None:
    """Until there was one start more than `starts`; the first one of a test may have been tried twice."""
    async with asyncio.timeout(60):
        while supervised.engine.state.starts <= starts:
            await asyncio.sleep(0.02)


def _seconds_until_gone(pids: list[int]) -> float:
    began = time.monotonic()
    while any(_lives(pid) for pid in pids) and time.monotonic() - began < 2 * ORPHANS_S:
        time.sleep(0.05)
    return time.monotonic() - began


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
