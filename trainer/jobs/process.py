"""Runs one sub-process of a stage: its JSON, its time and memory, its progress, and its end with ours.

It knows nothing about what the command does; a command writes JSON to stdout, and one sentence to stderr when it fails.
"""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

Beat = Callable[[Mapping[str, Any]], Awaitable[None]]
_LOOK_EVERY_S = 0.05
_GOES_WITHIN_S = 5.0
_SAID_BYTES = 4_000
_MIB = 2**20
_BOUND = Path(__file__).with_name("bound.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """How a sub-process ended. `exit_code`: below 0 the signal that killed it; None: it took too long and was ended.

    `output`: what it wrote to stdout, None when that is no JSON object. `said`: the end of its stderr.
    """

    exit_code: int | None
    seconds: float
    peak_rss_mb: float
    output: Mapping[str, Any] | None
    said: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long it may take, and how often `beat` is called meanwhile."""

    timeout_s: float
    beat_every_s: float


Start = Callable[[Sequence[str], Path, Path | None, Beat, Limits], Awaitable[Finished]]
"""What runs a command as `run_command` does."""


async def run_command(words: Sequence[str], log: Path, work: Path | None, beat: Beat, limits: Limits) -> Finished:
    """Run `words`, its stdout and stderr in files beside `log`; it is ended when this is cancelled or `beat` raises.

    `work`: where the command keeps JSON lines of progress, the newest of which `beat` gets.

    Raises:
        OSError: The files cannot be written, or there is no such command.
    """
    out, err = log.with_suffix(".out"), log.with_suffix(".err")
    log.parent.mkdir(parents=True, exist_ok=True)
    started, watched, code = time.monotonic(), _Watched(), None
    async with _child(words, out, err) as child:
        next_beat = started
        while (code := watched.ended(child)) is None and time.monotonic() - started < limits.timeout_s:
            if time.monotonic() >= next_beat:
                next_beat = time.monotonic() + limits.beat_every_s
                watched.look(child.pid)
                await beat(_newest_line(work, started_at=started) if work else {})
            await asyncio.sleep(_LOOK_EVERY_S)
    return Finished(
        exit_code=code,
        seconds=round(time.monotonic() - started, 3),
        peak_rss_mb=round(watched.peak_bytes / _MIB, 1),
        output=_object_of(out.read_text(errors="replace")),
        said=err.read_bytes()[-_SAID_BYTES:].decode(errors="replace").strip(),
    )


@asynccontextmanager
async def _child(words: Sequence[str], out: Path, err: Path) -> AsyncIterator["subprocess.Popen[bytes]"]:
    bound = [sys.executable, "-I", "-S", str(_BOUND), str(os.getpid()), *words]
    with out.open("wb") as stdout, err.open("wb") as stderr:
        child = subprocess.Popen(  # noqa: ASYNC220 - asyncio would collect its exit status, and with it the memory
            bound, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, start_new_session=True
        )
    try:
        yield child
    finally:
        await _end(child)


async def _end(child: "subprocess.Popen[bytes]") -> None:
    """Away with it and with its group: asked first, then killed."""
    deadline = time.monotonic() + _GOES_WITHIN_S
    for number in (signal.SIGTERM, signal.SIGKILL):
        if child.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)
        while child.poll() is None and (time.monotonic() < deadline or number == signal.SIGKILL):
            await asyncio.sleep(_LOOK_EVERY_S)


class _Watched:
    """The most memory that a process and those below it were seen with."""

    def __init__(self) -> None:
        self.peak_bytes = 0

    def look(self, pid: int) -> None:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            self._saw(sum(each.memory_info().rss for each in [process, *process.children(recursive=True)]))

    def ended(self, child: "subprocess.Popen[bytes]") -> int | None:
        """The exit code once it has ended; the kernel then tells its peak, which a look may have missed."""
        pid, status, usage = os.wait4(child.pid, os.WNOHANG)
        if not pid:
            return None
        self._saw(usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))
        child.returncode = os.waitstatus_to_exitcode(status)
        return child.returncode

    def _saw(self, size_bytes: int) -> None:
        self.peak_bytes = max(self.peak_bytes, size_bytes)


def _newest_line(work: Path, *, started_at: float) -> dict[str, Any]:
    """The last line of the newest *.jsonl below `work` that was written since the process started."""
    since = time.time() - (time.monotonic() - started_at)
    with contextlib.suppress(OSError, ValueError):
        files = {path: path.stat().st_mtime for path in work.rglob("*.jsonl")}
        fresh = [path for path, changed in files.items() if changed >= since]
        if fresh:
            line = json.loads(max(fresh, key=files.__getitem__).read_text().splitlines()[-1])
            return {key: value for key, value in line.items() if isinstance(value, int | float | str)}
    return {}


def _object_of(text: str) -> dict[str, Any] | None:
    """The JSON object in `text`; what a library wrote before it is passed over."""
    start = 0 if text.startswith("{") else text.find("\n{") + 1
    with contextlib.suppress(ValueError):
        found = json.loads(text[start:])
        return found if isinstance(found, dict) else None
    return None
