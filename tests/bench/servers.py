"""Starts the two servers that benchmarks compare: ours, and vLLM's own OpenAI server.

It knows nothing about what is measured.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.bench.report import ROOT

_START_S = 240


@dataclass
class Served:
    """A server that answers. `ready_s`: seconds from the command to the first ready answer."""

    port: int
    process: subprocess.Popen[bytes]
    ready_s: float

    def rss_mb(self) -> float:
        """Resident memory of the API process alone, without the engine's processes."""
        return psutil.Process(self.process.pid).memory_info().rss / 2**20


@contextlib.contextmanager
def nextquery(data_dir: Path, **settings: str) -> Iterator[Served]:
    """Our service with `settings` (names without prefix), its schema up to date."""
    port = free_port()
    environment = os.environ | {"NEXTQUERY_DATA_DIR": str(data_dir), "NEXTQUERY_PORT": str(port)}
    environment |= {f"NEXTQUERY_{name.upper()}": value for name, value in settings.items()}
    command = [sys.executable, "-m", "service.contract.command_line"]
    subprocess.run([*command, "db", "upgrade"], env=environment, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    with _running([*command, "serve"], environment, port, "/readyz", data_dir / "service.log") as served:
        yield served


@contextlib.contextmanager
def vllm_openai(model: Path, log: Path, *arguments: str, **environment: str) -> Iterator[Served]:
    """vLLM's own OpenAI server on `model`."""
    port = free_port()
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", "policy", *arguments]
    with _running(command, os.environ | environment, port, "/health", log) as served:
        yield served


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def _running(command: list[str], environment: dict[str, str], port: int, path: str, log: Path) -> Iterator[Served]:
    started = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
    try:
        _wait_ready(process, f"http://127.0.0.1:{port}{path}", log)
        yield Served(port, process, time.monotonic() - started)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)


def _wait_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(
                f"The server ended with {process.returncode}. Its last words:\n{log.read_text()[-2000:]}"
            )
        with contextlib.suppress(OSError, urllib.error.URLError), urllib.request.urlopen(url, timeout=2) as answer:
            if answer.status == 200:
                return
        time.sleep(0.1)
    raise RuntimeError(f"The server was not ready in {_START_S} s. Its last words:\n{log.read_text()[-2000:]}")
