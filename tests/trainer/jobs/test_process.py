"""A sub-process of a stage: its JSON, memory and progress are read, and it never outlives whoever started it."""

import asyncio
import json
import os
import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from trainer.jobs.process import Finished, Limits, run_command

SOON = Limits(timeout_s=20, beat_every_s=0.05)


async def run(tmp_path: Path, code: str, *, limits: Limits = SOON) -> tuple[Finished, list[Mapping[str, Any]]]:
    beats: list[Mapping[str, Any]] = []

    async def beat(progress: Mapping[str, Any]) -> None:
        beats.append(progress)

    words = [sys.executable, "-c", code]
    return await run_command(words, tmp_path / "log" / "part", tmp_path / "work", beat, limits), beats


async def test_the_json_is_read_and_what_a_library_wrote_before_it_is_passed_over(tmp_path: Path) -> None:
    finished, _ = await run(tmp_path, 'print(\'Loading...\'); print(\'{"version": "v1",\\n "auc": NaN}\')')

    assert finished.exit_code == 0
    assert finished.output is not None
    assert finished.output["version"] == "v1"
    assert str(finished.output["auc"]) == "nan"


async def test_a_failure_has_its_exit_code_and_the_end_of_what_it_said(tmp_path: Path) -> None:
    finished, _ = await run(tmp_path, "import sys; print('x' * 9000, file=sys.stderr); sys.exit('The disk is full.')")

    assert (finished.exit_code, finished.output) == (1, None)
    assert finished.said.endswith("The disk is full.")
    assert len(finished.said) <= 4000


async def test_the_peak_memory_of_a_process_is_known_though_it_was_never_looked_at(tmp_path: Path) -> None:
    finished, _ = await run(tmp_path, "x = b'1' * 200_000_000; del x; print('{}')")

    # Linux counts what a process was before exec too, and that is its parent, here all of pytest.
    own_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    assert 190 < finished.peak_rss_mb < max(400, own_mb + 1)


async def test_progress_is_the_newest_line_of_its_work_directory(tmp_path: Path) -> None:
    (tmp_path / "work" / "run").mkdir(parents=True)
    (tmp_path / "work" / "old.jsonl").write_text('{"done": 0.9}\n')
    os.utime(tmp_path / "work" / "old.jsonl", (1, 1))
    file = tmp_path / "work" / "run" / "metrics.jsonl"
    lines = '{"done": 0.1}\\n{"done": 0.25, "eta_s": 30.0}\\n'
    code = f"import time; open({str(file)!r}, 'w').write('{lines}'); time.sleep(0.5); print('{{}}')"

    _, beats = await run(tmp_path, code)

    assert beats[-1] == {"done": 0.25, "eta_s": 30.0}
    assert {"done": 0.9} not in beats


async def test_it_is_ended_with_its_children_when_it_takes_too_long(tmp_path: Path) -> None:
    finished, _ = await run(tmp_path, _PARENT, limits=Limits(timeout_s=1.0, beat_every_s=0.1))

    assert finished.exit_code is None
    await _gone(tmp_path)


async def test_it_is_ended_when_a_sign_of_life_finds_the_lock_lost(tmp_path: Path) -> None:
    async def beat(_: Mapping[str, Any]) -> None:
        if (tmp_path / "log" / "part.out").stat().st_size:
            raise RuntimeError("lost")

    with pytest.raises(RuntimeError):
        await run_command([sys.executable, "-c", _PARENT], tmp_path / "log" / "part", None, beat, SOON)

    await _gone(tmp_path)


async def test_it_is_ended_when_the_job_is_cancelled(tmp_path: Path) -> None:
    running = asyncio.create_task(run(tmp_path, _PARENT))
    out = tmp_path / "log" / "part.out"
    while not out.exists() or not out.stat().st_size:
        await asyncio.sleep(0.02)

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    await _gone(tmp_path)


_PARENT = (
    "import json, subprocess, sys, time, os\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
    "print(json.dumps([os.getpid(), child.pid]), flush=True)\n"
    "time.sleep(60)"
)


async def _gone(tmp_path: Path) -> None:
    pids = json.loads((tmp_path / "log" / "part.out").read_text())
    ends = time.monotonic() + 5
    while time.monotonic() < ends and any(map(_runs, pids)):
        await asyncio.sleep(0.02)
    assert not any(map(_runs, pids))


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
