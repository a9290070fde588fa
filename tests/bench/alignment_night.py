"""A night of real commands on a log of its own, and a promotion under traffic: how long, how much memory, what fails.

It knows the system by its commands and its HTTP calls; only the log is put into the database directly.
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime
from datetime import time as clock
from pathlib import Path

import psutil

from service.contract import database, registry
from service.contract.policy import load_policy
from service.contract.settings import STARTER, Settings, Timeouts
from service.contract.snapshot import open_snapshot
from service.engines import create_engine
from tests.bench.report import ROOT
from tests.chaos.ledger import Ledger, Traffic
from tests.log_in_database import lay_log
from tests.service_process import ServiceProcess, adapter_policy, running
from trainer.audience.audience import Audience
from trainer.audience.in_process import LogConfig, simulate_log
from trainer.audience.listers import written_by
from trainer.jobs.window import Window, latest_window

_LISTS, _PEOPLE_A_LIST = 20_000, 4
_PROMPTS = 300
_LOOK_EVERY_S = 0.5
_DEADLINE_S, _READY_S = 10.0, 240.0


def nightly() -> dict[str, float]:
    """One round on 300 prompts: minutes from the command to its end, and the most memory of all its processes together."""
    settings = Settings()
    window = latest_window(settings.jobs)
    with tempfile.TemporaryDirectory(prefix="nextquery-night-") as scratch:
        data = Path(scratch) / "data"
        data.mkdir()
        asyncio.run(_lay_log(window, Path(scratch), data))
        began = time.monotonic()
        run, peak = _run_night(data, window)
    print(_told(run), file=sys.stderr)
    return {
        "nightly_minutes": (time.monotonic() - began) / 60.0,
        "peak_rss_gb": peak / 2**30,
        "nightly_published": float(run["stages"][-1]["figures"].get("published", 0)),
    }


async def _lay_log(window: Window, scratch: Path, data: Path) -> None:
    """The log of a window, on lists that the starter policy wrote, in the database of `data`."""
    policy = load_policy(STARTER)
    engine = create_engine("auto", policy.directory, Settings())
    since = datetime.combine(window.since, clock(), UTC)
    config = LogConfig(
        task="suggest", impressions=_LISTS, since=since, days=len(window.days), people_a_list=_PEOPLE_A_LIST
    )
    await engine.start()
    try:
        await simulate_log(written_by(engine, policy), Audience(), config, scratch / "log")
    finally:
        await engine.close()
    url = f"sqlite+aiosqlite:///{data / 'nextquery.db'}"
    await asyncio.to_thread(database.upgrade, url, Timeouts())
    await lay_log(open_snapshot(scratch / "log"), url)


def _run_night(data: Path, window: Window) -> tuple[dict[str, object], int]:
    """The record of the run, and the peak of the resident memory of it and all below it, in bytes."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NEXTQUERY_")}
    environment |= {
        "NEXTQUERY_DATA_DIR": str(data),
        "NEXTQUERY_JOBS__PROMPTS": str(_PROMPTS),
        "NEXTQUERY_JOBS__MAX_ROUNDS": "1",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "service.contract.command_line", "job", "run", "nightly"]
    process = subprocess.Popen(
        [*command, "--window", window.name, "--json"],
        env=environment,
        cwd=data,  # away from the developer's .env
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    peak = _Peak(process.pid)
    peak.start()
    out, err = process.communicate()
    peak.stop()
    if process.returncode:
        raise RuntimeError(f"The nightly run ended with {process.returncode}: {err.decode()[-3000:]}")
    return json.loads(out), peak.bytes


class _Peak(threading.Thread):
    """Looks at the memory of a process and those below it until it is stopped. `bytes`: the most that was seen."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.bytes = 0
        self._pid, self._ended = pid, threading.Event()

    def run(self) -> None:
        while not self._ended.wait(_LOOK_EVERY_S):
            self.bytes = max(self.bytes, _resident(self._pid))

    def stop(self) -> None:
        self._ended.set()
        self.join()


def _resident(pid: int) -> int:
    total = 0
    try:
        processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return 0
    for each in processes:
        try:
            total += each.memory_info().rss
        except psutil.Error:
            continue  # it has just ended
    return total


def _told(run: dict[str, object]) -> str:
    stages = run["stages"]
    assert isinstance(stages, list)
    lines = [
        f"  {each['stage']}: {each['state']} {each['seconds']:.0f} s {each['peak_rss_mb']:.0f} MiB" for each in stages
    ]
    return "\n".join([f"  nightly is {run['state']}: {run['reason'] or 'all gates passed'}", *lines])


def swap() -> dict[str, float]:
    """An adapter is promoted under traffic on a real engine: replies that failed, and seconds until one names it."""
    with tempfile.TemporaryDirectory(prefix="nextquery-swap-") as scratch:
        place = Path(scratch)
        adapter = adapter_policy(place / "dpo-1", STARTER, seed=1)
        settings = {"engine": "vllm_local", "policy": "champion", "timeouts__recommend_s": str(_DEADLINE_S)}
        with (
            running(place / "data", until="/readyz", within_s=_READY_S, **settings) as service,
            Traffic(service, Ledger(place / "ledger"), people=2) as traffic,
        ):
            traffic.wait_for_model(time.monotonic(), within_s=_DEADLINE_S)
            began = time.monotonic()
            asyncio.run(_promote(service, adapter))
            _wait_for(traffic, adapter.name, began)
            time.sleep(1.0)
    first = next((reply for reply in traffic.replies if reply.policy == adapter.name), None)
    failed = [reply for reply in traffic.replies if (reply.status, reply.served_by) != (200, "model")]
    print(f"  {len(traffic.replies)} replies, of which {len(failed)} failed", file=sys.stderr)
    return {"swap_failed_requests": float(len(failed)), "swap_s": first.ended - began if first else float("inf")}


async def _promote(service: ServiceProcess, directory: Path) -> None:
    opened = database.create(service.database_url, Timeouts())
    try:
        made = await registry.register(
            opened,
            version=directory.name,
            kind="policy",
            task="*",
            directory=directory,
            parent=load_policy(STARTER).version,
        )
        await registry.put_in_front(opened, made)
    finally:
        await opened.dispose()


def _wait_for(traffic: Traffic, version: str, began: float) -> None:
    while time.monotonic() < began + _READY_S and all(reply.policy != version for reply in list(traffic.replies)):
        time.sleep(0.05)
