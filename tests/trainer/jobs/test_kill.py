"""A night that is killed, stopped, started twice or out of disk space: real processes, and the stub as `nextquery`."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import insert

from service.contract import database as db
from service.contract import job_records
from service.contract.errors import JobBusy
from service.contract.job_records import RunRecord
from service.contract.tables import impressions
from tests.conftest import TIMEOUTS
from tests.trainer.jobs.night import ROOT, Night
from tests.trainer.jobs.test_nightly import WHOLE
from trainer.jobs.lock import hold_lock
from trainer.jobs.nightly import JOB

pytestmark = pytest.mark.slow

_STAGES = ["snapshot", "retrieval build", "ctr train", "train align", "train evaluate", "ctr publish"]
_FREE_WITHIN_S = 1.0


def finish(process: "subprocess.Popen[str]", *, within_s: float = 90) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=within_s)
    return process.returncode, out, err


def gone(pid: int, *, within_s: float = 5) -> bool:
    ends = time.monotonic() + within_s
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > ends:
            return False
        time.sleep(0.02)
    return True


def made_by(run: dict[str, Any]) -> dict[str, Any]:
    """What the record says was made, without times: by stage and part, its version and hash; then what it decided."""
    return {
        stage["stage"]: [
            stage["state"],
            stage["reason"],
            {name: (part["output"].get("version"), part["sha256"]) for name, part in stage["parts"].items()},
            stage["figures"],
        ]
        for stage in run["stages"]
    }


async def seconds_until_free(url: str) -> float:
    engine, started = db.create(url, TIMEOUTS), time.monotonic()
    try:
        while True:
            try:
                async with hold_lock(engine, JOB):
                    return time.monotonic() - started
            except JobBusy:
                await asyncio.sleep(0.01)
    finally:
        await engine.dispose()


async def runs_of(url: str) -> list[RunRecord]:
    engine = db.create(url, TIMEOUTS)
    try:
        return await job_records.list_runs(engine)
    finally:
        await engine.dispose()


def test_of_two_nights_at_once_one_works_the_other_is_busy_and_a_killed_holder_frees_the_lock(night: Night) -> None:
    night.hold("snapshot")
    working = night.start()
    stage = night.wait_for("snapshot")["pid"]

    code, out, err = finish(night.start())
    working.kill()
    free_s = asyncio.run(seconds_until_free(night.database_url))

    assert (code, out) == (75, "")
    assert "under way" in err
    assert free_s < _FREE_WITHIN_S
    assert gone(stage)  # a stage that went on would work beside the next run
    assert finish(working)[0] == -signal.SIGKILL


def test_a_signal_stops_the_night_in_order_and_says_so(night: Night) -> None:
    night.hold("retrieval build")
    working = night.start()
    stage = night.wait_for("retrieval build")["pid"]

    working.send_signal(signal.SIGTERM)
    code, out, err = finish(working)

    assert (code, out) == (143, "")
    assert "goes on from the last finished stage" in err
    assert gone(stage)
    [record] = asyncio.run(runs_of(night.database_url))
    assert record.state == "stopped"


@pytest.mark.chaos
@pytest.mark.timeout(300)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_night_killed_at_every_stage_ends_as_one_that_was_not(night: Night, migrated_sqlite: Path) -> None:
    for command in _STAGES:
        held = night.hold(command)
        working = night.start()
        night.wait_for(command, within_s=60)
        working.kill()
        finish(working)
        held.unlink()
    code, out, err = finish(night.start())
    (night.place / "other").mkdir()
    other_database = shutil.copy(migrated_sqlite, night.place / "other" / "nextquery.db")
    other = Night(night.place / "other", f"sqlite+aiosqlite:///{other_database}")
    other_code, other_out, _ = finish(other.start())

    assert (code, other_code) == (0, 0), err
    run = json.loads(out)
    assert (run["state"], run["attempts"]) == ("done", len(_STAGES) + 1)
    assert made_by(run) == made_by(json.loads(other_out))
    # each command that was killed was called once more, and no other: what was finished is not run again
    assert sorted(night.calls()) == sorted([*WHOLE, *_STAGES])


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_full_disk_is_a_sentence_and_the_next_run_goes_on(night: Night) -> None:
    """The real `nextquery snapshot`, under a limit of the size of any file that it writes."""
    if not shutil.which("prlimit"):
        pytest.skip("prlimit (util-linux) is not installed.")
    command = [sys.executable, "-m", "service.contract.command_line"]
    asyncio.run(fill(night.database_url, night))
    night.more["NEXTQUERY_JOBS__COMMAND"] = json.dumps(["prlimit", "--fsize=65536", *command])

    code, _, err = finish(night.start("snapshot"))
    left = list((night.data / "snapshots").iterdir())
    night.more["NEXTQUERY_JOBS__COMMAND"] = json.dumps(command)
    code_after, out, _ = finish(night.start("snapshot"))

    assert code == 1
    assert "`nextquery snapshot` of stage snapshot (log) ended with 2" in err
    assert "File too large. Make room" in err
    assert left == []
    assert code_after == 0
    run = json.loads(out)
    assert (run["state"], run["attempts"]) == ("waiting", 2)
    assert run["stages"][0]["figures"]["impressions"] == 12 * _LISTS_A_DAY


_LISTS_A_DAY = 40


async def fill(url: str, night: Night) -> None:
    """Lists on every day of the window, more of them than fit into the limit: their answers cannot be compressed."""
    engine = db.create(url, TIMEOUTS)
    fixed = {"task": "suggest", "query": "tea", "prompt_fingerprint": "f", "prompt_tokens": 0, "sampling": {}}
    fixed |= {"candidates": [], "texts": {}, "n_shown": 3, "served_by": "model", "timings": {}}
    rows = [
        {
            **fixed,
            "impression_id": f"{day}-{number}",
            "at": datetime(day.year, day.month, day.day, 12, tzinfo=UTC) + timedelta(seconds=number),
            "context": {"answer": os.urandom(2000).hex()},
        }
        for day in night.window.days
        for number in range(_LISTS_A_DAY)
    ]
    async with engine.begin() as connection:
        await connection.execute(insert(impressions), rows)
    await engine.dispose()


def test_lists_and_shows_what_was_run(night: Night) -> None:
    _, out, _ = finish(night.start("snapshot"))
    run_id = json.loads(out)["run_id"]

    listed, as_json, shown, unknown = (
        subprocess.run(
            [sys.executable, "-m", "trainer.jobs", "job", *words],
            env={**night.environment, "COLUMNS": "160"},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        for words in (["list"], ["list", "--json"], ["show", run_id], ["show", "no-such-run"])
    )

    assert (listed.returncode, shown.returncode, unknown.returncode) == (0, 0, 2)
    assert night.window.name in listed.stdout
    assert json.loads(as_json.stdout)[0]["run_id"] == run_id
    assert "snapshot" in shown.stdout
    assert "nextquery job list" in unknown.stderr
