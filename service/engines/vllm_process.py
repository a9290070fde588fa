"""The processes of one vLLM engine: their environment, telling them from others, ending them for certain.

It knows nothing about vLLM's classes, and imports none.
"""

import asyncio
import multiprocessing
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing import forkserver

import psutil

from service.contract.hardware import computes_in_bfloat16
from service.contract.settings import Settings
from service.engines import device_kind

_ENDED_POLITELY_S = 2.0
_KILLED_S = 2.0
_FORK_SERVER = "multiprocessing.forkserver"
_KEPT = "VLLM_"  # vLLM reads these again later; all others are put back after the start


class EngineProcesses:
    """Every process that `multiprocessing` started here after `begin`, and what those started.

    A mark in their environment would be plainer, but vLLM's process titles overwrite what the kernel shows of it.
    """

    def __init__(self) -> None:
        self._others: set[int | None] | None = None
        self._known: dict[int, psutil.Process] = {}

    def begin(self) -> None:
        """From now on, new child processes are the engine's."""
        self._others = {child.pid for child in multiprocessing.active_children()}

    def alive(self) -> list[psutil.Process]:
        """The engine's processes that still live; zombies do not."""
        children = multiprocessing.active_children() if self._others is not None else []
        for child in children:
            if child.pid not in (self._others or ()) and child.pid is not None:
                self._remember(child.pid)
        return [process for process in self._known.values() if _is_alive(process)]

    async def end(self, politely_s: float = _ENDED_POLITELY_S) -> None:
        """Wait a little for them to go, then kill what is left until it is gone; a stopped one is not waited for."""
        deadline = time.monotonic() + politely_s
        while any(not _is_stopped(process) for process in self.alive()) and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        deadline = time.monotonic() + _KILLED_S
        while (left := self.alive()) and time.monotonic() < deadline:
            for process in left:
                with suppress(psutil.Error):
                    process.kill()
            await asyncio.sleep(0.05)

    def _remember(self, pid: int) -> None:
        with suppress(psutil.Error):
            root = self._known.setdefault(pid, psutil.Process(pid))
            for process in root.children(recursive=True):
                self._known.setdefault(process.pid, process)


def warm_fork_server() -> psutil.Process | None:
    """Start the process that the core will be forked from: it imports vLLM while this one does, on another core.

    Call it where the engine's variables are set: the core gets the environment of this moment. Returns the process, or
    None where another engine's serves. It dies with the calling thread; `stop_fork_server` before that.
    """
    before = _fork_servers()
    multiprocessing.set_forkserver_preload(["service.engines._fork_server"])
    forkserver.ensure_running()
    return next((process for process in _fork_servers() if process not in before), None)


def stop_fork_server(server: psutil.Process) -> None:
    """Kill it and wait until it is gone; the next engine would else take the dying one and fail to start.

    It is not reaped: `multiprocessing` does that before it starts another.
    """
    deadline = time.monotonic() + _KILLED_S
    with suppress(psutil.Error):
        server.kill()
    while _is_alive(server) and time.monotonic() < deadline:
        time.sleep(0.01)


def _fork_servers() -> list[psutil.Process]:
    with suppress(psutil.Error):
        return [child for child in psutil.Process().children() if _FORK_SERVER in " ".join(child.cmdline())]
    return []


@contextmanager
def borrowed(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables for the processes started inside, and put back what other children must not inherit."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in [name for name in os.environ if not name.startswith(_KEPT)]:
            if name not in before:
                del os.environ[name]
            elif os.environ[name] != before[name]:
                os.environ[name] = before[name]


def dtype(settings: Settings) -> str:
    """The precision for vLLM, whose own `auto` takes the checkpoint's, also where the CPU only emulates it."""
    if settings.engine_dtype != "auto" or device_kind() != "cpu":
        return settings.engine_dtype
    return "bfloat16" if computes_in_bfloat16() else "float32"


def environment(settings: Settings) -> dict[str, str]:
    """Variables that vLLM reads when it is imported and when its processes start."""
    threads = max(1, len(os.sched_getaffinity(0)) - 1) if hasattr(os, "sched_getaffinity") else 1
    shared = {
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "ERROR"),
        "VLLM_ENGINE_READY_TIMEOUT_S": str(int(settings.timeouts.engine_start_s) + 1),
        "TORCH_CPP_LOG_LEVEL": "ERROR",
    }
    if device_kind() == "cuda":
        return shared
    return shared | {
        "VLLM_CPU_KVCACHE_SPACE": str(settings.vllm_cpu_kv_cache_gib),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),  # one core is left to the API
        "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads on shared cores made a step 9 times slower
    }


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _is_stopped(process: psutil.Process) -> bool:
    """Whether it is frozen by a signal, and so cannot go by itself."""
    try:
        return bool(process.status() == psutil.STATUS_STOPPED)
    except psutil.Error:
        return False
