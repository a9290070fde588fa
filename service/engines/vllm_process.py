"""The processes of one vLLM engine: their environment, telling them from others, ending them for certain.

It knows nothing about vLLM's classes, and imports none.
"""

import asyncio
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import forkserver

import psutil

from service.contract.hardware import computes_in_bfloat16
from service.contract.settings import Settings
from service.engines import device_kind

_ENDED_POLITELY_S = 2.0
_KILLED_S = 2.0
_SHOWN_S = 2.0
_FORK_SERVER = "multiprocessing.forkserver"
_ONE_STARTS = threading.Lock()
_KEPT = "VLLM_"  # vLLM reads these again later; all others are put back after the start


class EngineProcesses:
    """Every process that `multiprocessing` started here during `starting`, and what those started.

    A mark in their environment would be plainer, but vLLM's process titles overwrite what the kernel shows of it.
    """

    def __init__(self) -> None:
        self._others: set[int | None] | None = None  # known while new child processes are this engine's
        self._known: dict[int, psutil.Process] = {}

    @contextmanager
    def starting(self) -> Iterator[None]:
        """New child processes are this engine's until the end of the block; another engine waits for that."""
        with _ONE_STARTS:
            self._others = {child.pid for child in multiprocessing.active_children()}
            try:
                yield
            finally:
                self.alive()
                self._others = None

    def alive(self) -> list[psutil.Process]:
        """The engine's processes that still live; zombies do not."""
        others = self._others
        if others is not None:
            for pid in [child.pid for child in multiprocessing.active_children()]:
                if pid is not None and pid not in others:
                    self._remember(pid)
        for root in list(self._known.values()):
            self._remember(root.pid)
        return [process for process in list(self._known.values()) if _is_alive(process)]

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
            root = self._known.get(pid) or self._known.setdefault(pid, psutil.Process(pid))
            for process in root.children(recursive=True):
                self._known.setdefault(process.pid, process)


class ForkServer:
    """The process that cores are forked from: one for all engines here, from the first one's start to the last one's end.

    It imports vLLM while this process does, on another core. It dies with the thread that started it, and the cores
    die with it, so that thread is no engine's.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._process: psutil.Process | None = None
        self._ending = threading.Event()

    def borrow(self) -> None:
        """Start it where it does not run. Call it where the engine's variables are set: cores get them from it."""
        with self._lock:
            self._users += 1
            if self._process is None or not _is_alive(self._process):
                self._begin()

    def give_back(self) -> None:
        """After the last engine, kill it until it is gone; the next engine would else take the dying one and fail."""
        with self._lock:
            self._users -= 1
            if not self._users:
                self._end()

    def _begin(self) -> None:
        self._end()
        started, self._ending = threading.Event(), threading.Event()
        threading.Thread(target=self._own, args=(started, self._ending), name="fork-server-owner", daemon=True).start()
        started.wait()

    def _own(self, started: threading.Event, ending: threading.Event) -> None:
        before = _fork_servers()
        try:
            multiprocessing.set_forkserver_preload(["service.engines._fork_server"])
            forkserver.ensure_running()
            self._process = _new_fork_server(before)
        finally:
            started.set()
        ending.wait()

    def _end(self) -> None:
        """It is not reaped: `multiprocessing` does that before it starts another."""
        process, self._process = self._process, None
        deadline = time.monotonic() + _KILLED_S
        with suppress(psutil.Error):
            if process is not None:
                process.kill()
        while process is not None and _is_alive(process) and time.monotonic() < deadline:
            time.sleep(0.01)
        self._ending.set()


FORK_SERVER = ForkServer()  # one for this process, as the one of `multiprocessing` that it keeps


def _fork_servers() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if _is_fork_server(child)]


def _is_fork_server(process: psutil.Process) -> bool:
    """A zombie has no command line, and is none; it must not hide the others."""
    try:
        return _FORK_SERVER in " ".join(process.cmdline())
    except psutil.Error:
        return False


def _new_fork_server(before: Sequence[psutil.Process]) -> psutil.Process | None:
    """The one that is not among those of `before`: a process that was only just begun may have no command line yet."""
    deadline = time.monotonic() + _SHOWN_S
    while time.monotonic() < deadline:
        for process in _fork_servers():
            if process not in before:
                return process
        time.sleep(0.005)
    return None


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
