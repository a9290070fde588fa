"""Simulated logs on lists that the starter policy wrote: made once, kept, and shared by the benchmarks.

It knows nothing about what is learnt from them.
"""

import asyncio
import sys
from datetime import UTC, datetime
from pathlib import Path

from service.contract.artifact import verify
from service.contract.policy import load_policy
from service.contract.settings import STARTER, Settings
from service.contract.snapshot import Snapshot, open_snapshot
from service.engines import create_engine
from tests.bench.report import ROOT
from trainer.audience.audience import Audience
from trainer.audience.constants import FIRST
from trainer.audience.in_process import LogConfig, simulate_log
from trainer.audience.listers import written_by

DAYS, TEST_DAYS = 21, 7
SINCE = datetime(2026, 10, 1, tzinfo=UTC)
_KEPT = ROOT / ".bench" / "ctr-logs"


def simulated_log(task: str, window: int, people_a_list: int) -> Snapshot:
    """The log of `task`, written once and kept: `window` impressions in the first 14 days, half as many in the 7 after.

    Beside it stand the true probabilities; see `trainer/audience/in_process.py`.
    """
    directory = place(task, window, people_a_list)
    if not directory.exists():
        asyncio.run(_simulate(task, window, people_a_list, directory))
    return open_snapshot(directory)


def place(task: str, window: int, people_a_list: int) -> Path:
    """Where the log is kept, or will be."""
    version = verify(STARTER)["version"]
    return _KEPT / f"{task}-{window}-{people_a_list}-{FIRST.digest()}-{version}"


async def _simulate(task: str, window: int, people_a_list: int, directory: Path) -> None:
    policy = load_policy(STARTER)
    engine = create_engine("auto", policy.directory, Settings())
    config = LogConfig(
        task=task,
        impressions=window * DAYS // (DAYS - TEST_DAYS),
        since=SINCE,
        days=DAYS,
        people_a_list=people_a_list,
        expected_days=TEST_DAYS,
    )
    await engine.start()
    try:
        await simulate_log(written_by(engine, policy), Audience(), config, directory, report=_tell)
    finally:
        await engine.close()


def _tell(done: float, figures: dict[str, float]) -> None:
    print(f"  {done:.0%} {figures}", file=sys.stderr, flush=True)
