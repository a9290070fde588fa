"""A real `nextquery serve` process for tests: start, watch, stop and kill it; and raw bytes over a socket to it.

It knows nothing about what is tested.
"""

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from sqlalchemy import create_engine, text

from service.contract import database
from service.contract.artifact import MANIFEST, manifest_sha256, read_manifest
from service.contract.policy import seal_policy
from service.contract.settings import STARTER, Timeouts
from service.contract.tokenizer import TextFormat
from tests.tiny_models import EOS_ID, VOCABULARY, make_adapter, make_model, make_tokenizer

ROOT = Path(__file__).parents[1]
_STEP_S = 0.05
_SEPARATOR = TextFormat(separator="<sep>", separator_is_token=True)


@dataclass
class ServiceProcess:
    """One service on a free loopback port. `settings`: names without prefix; `data_dir` keeps database, key and log."""

    data_dir: Path
    settings: dict[str, str] = field(default_factory=dict)
    port: int = 0
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Of the process that serves HTTP."""
        assert self.process is not None, "The service was not started."
        return self.process.pid

    def start(self, *, until: str = "/livez", within_s: float = 60) -> "ServiceProcess":
        """Migrate the database, start, and wait until `until` answers 200. The port stays the same after a kill."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        database.upgrade(self.database_url, Timeouts())
        self.port = self.port or free_port()
        with (self.data_dir / "service.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "service.contract.command_line", "serve"],
                env=self._environment(),
                cwd=self.data_dir,  # away from the developer's .env
                stdout=subprocess.DEVNULL,  # for people; the log is on stderr
                stderr=log,
            )
        self.wait(until, within_s=within_s)
        return self

    def wait(self, path: str = "/readyz", *, within_s: float = 60) -> float:
        """Seconds until `path` answered 200."""
        started = time.monotonic()
        while time.monotonic() - started < within_s:
            assert self.process is not None
            assert self.process.poll() is None, (
                f"The service ended with {self.process.returncode}:\n{self.log()[-3000:]}"
            )
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(self.url + path, timeout=2).status_code == 200:
                    return time.monotonic() - started
            time.sleep(_STEP_S)
        raise AssertionError(f"{path} was not 200 within {within_s:g} s:\n{self.log()[-3000:]}")

    def terminate(self, *, within_s: float = 20) -> int:
        """SIGTERM; the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(within_s)

    def kill(self) -> None:
        """SIGKILL to the process that serves HTTP, and to no other."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> None:
        """Away with it, however it is."""
        if self.process is None or self.process.poll() is not None:
            return
        try:
            self.terminate()
        except subprocess.TimeoutExpired:
            self.kill()

    def children(self) -> list[psutil.Process]:
        """Every process below it: the engine's."""
        return psutil.Process(self.pid).children(recursive=True)

    def rss_mb(self) -> float:
        """Resident memory of the process that serves HTTP."""
        return float(psutil.Process(self.pid).memory_info().rss) / 2**20

    def log(self) -> str:
        """All that it wrote so far."""
        return (self.data_dir / "service.log").read_text(errors="replace")

    def log_lines(self) -> list[dict[str, Any]]:
        """Its log, one JSON object a line; fails on a line that is none."""
        return [json.loads(line) for line in self.log().splitlines() if line.strip()]

    def logged(self, request_id: str, *, within_s: float = 3) -> dict[str, Any]:
        """The line of that request; it is written just after the reply."""
        for _ in range(int(within_s / _STEP_S)):
            for line in self.log_lines():
                if line.get("request_id") == request_id and line["message"] == "request":
                    return line
            time.sleep(_STEP_S)
        raise AssertionError(f"The request {request_id} is not in the log:\n{self.log()[-2000:]}")

    def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        """One POST of JSON."""
        return httpx.post(self.url + path, json=body, timeout=options.pop("timeout", 15), **options)

    def metric(self, name: str, **labels: str) -> float:
        """A value from /metrics, 0 when it is not there yet."""
        for line in httpx.get(f"{self.url}/metrics", timeout=5).text.splitlines():
            if line.startswith(name) and all(f'{key}="{value}"' in line for key, value in labels.items()):
                return float(line.rsplit(" ", 1)[1])
        return 0.0

    @property
    def database_url(self) -> str:
        """Of the database that it writes."""
        return self.settings.get("database_url", f"sqlite+aiosqlite:///{(self.data_dir / 'nextquery.db').absolute()}")

    def _environment(self) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("NEXTQUERY_")}
        chosen = {"engine": "off", **self.settings, "port": str(self.port), "data_dir": str(self.data_dir)}
        return clean | {f"NEXTQUERY_{name.upper()}": value for name, value in chosen.items()}


@contextlib.contextmanager
def running(
    data_dir: Path, *, until: str = "/livez", within_s: float = 60, **settings: str
) -> Iterator[ServiceProcess]:
    """A service that is stopped at the end."""
    service = ServiceProcess(data_dir, settings)
    try:
        yield service.start(until=until, within_s=within_s)
    finally:
        service.stop()


def language_model(directory: Path) -> Path:
    """A model that vLLM can load: NEXTQUERY_TEST_POLICY, else the shipped starter, else a tiny random one."""
    given = os.environ.get("NEXTQUERY_TEST_POLICY")
    if given:
        return Path(given)
    return STARTER if (STARTER / MANIFEST).is_file() else make_model(directory)


def scripted_policy(directory: Path, version: str = "policy-of-tests") -> Path:
    """A sealed policy that writes English: a tokenizer and a manifest, enough for the scripted engine."""
    make_tokenizer(directory)
    limits = {"model_type": "llama", "vocab_size": VOCABULARY, "max_position_embeddings": 1024, "eos_token_id": EOS_ID}
    (directory / "config.json").write_text(json.dumps(limits))
    seal_policy(directory, version=version, text_format=_SEPARATOR)
    return directory


def adapter_policy(directory: Path, base: Path, *, seed: int | None = None, rank: int = 8) -> Path:
    """A sealed adapter on the policy in `base`, its version the directory's name.

    `seed`: of its random weights, enough to change what is written; None is an adapter for the scripted engine.
    """
    directory.mkdir(parents=True)
    if seed is not None:
        make_adapter(directory, base, seed=seed, rank=rank, strength=0.25)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(base / name, directory)
    trained_on = {"version": read_manifest(base)["version"], "manifest_sha256": manifest_sha256(base)}
    seal_policy(directory, version=directory.name, text_format=_SEPARATOR, base=trained_on)
    return directory


def rows(database_url: str, table: str) -> list[dict[str, Any]]:
    """Every row of a table, read over a connection of our own."""
    engine = create_engine(database_url.replace("+aiosqlite", ""))
    try:
        with engine.connect() as connection:
            return [dict(row) for row in connection.execute(text(f"SELECT * FROM {table}")).mappings()]
    finally:
        engine.dispose()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@dataclass(frozen=True)
class Answer:
    """What came back over a raw socket. `closed_after_s`: None while the service kept the connection open."""

    raw: bytes
    closed_after_s: float | None

    @property
    def status(self) -> int:
        """Of the first response, 0 when there was none."""
        return int(self.raw[9:12]) if self.raw.startswith(b"HTTP/1.") else 0

    @property
    def head(self) -> bytes:
        """Status line and headers of the first response, in lower case."""
        return self.raw.partition(b"\r\n\r\n")[0].lower()

    @property
    def body(self) -> bytes:
        """Of the first response."""
        lengths = [line[15:] for line in self.head.split(b"\r\n") if line.startswith(b"content-length:")]
        rest = self.raw.partition(b"\r\n\r\n")[2]
        return rest[: int(lengths[0])] if lengths else rest


def exchange(port: int, *pieces: bytes, wait_s: float = 5.0, pause_s: float = 0.0, whole: bool = True) -> Answer:
    """Send `pieces`, reading meanwhile, until one response is there (`whole`), the connection or the time ends."""
    started = time.monotonic()
    received = bytearray()
    with socket.create_connection(("127.0.0.1", port), timeout=wait_s) as connection:
        connection.setblocking(False)
        pending = [memoryview(piece) for piece in pieces]
        next_at = started
        while (now := time.monotonic()) - started < wait_s:
            may_send = bool(pending) and now >= next_at
            readable, writable, _ = select.select([connection], [connection] if may_send else [], [], 0.02)
            if readable:
                try:
                    data = connection.recv(1 << 20)
                except ConnectionError:
                    data = b""
                if not data:
                    return Answer(bytes(received), time.monotonic() - started)
                received += data
                if whole and not pending and _is_whole(bytes(received), has_body=pieces[0][:5] != b"HEAD "):
                    return Answer(bytes(received), None)
            if writable and pending:
                try:
                    sent = connection.send(pending[0][: 1 << 18])
                except ConnectionError:
                    pending = []
                    continue
                pending[0] = pending[0][sent:]
                if not pending[0]:
                    pending.pop(0)
                    next_at = time.monotonic() + pause_s
    return Answer(bytes(received), None)


def http(method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> bytes:
    """A request on the wire."""
    lines = [f"{method} {path} HTTP/1.1", "host: localhost", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _is_whole(raw: bytes, *, has_body: bool) -> bool:
    """A whole response on a connection that stays open; one that says `close` is whole when it is closed."""
    head, mark, body = raw.partition(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    lengths = [line[15:] for line in lines if line.startswith(b"content-length:")]
    if not mark or b"connection: close" in lines:
        return False
    return not has_body or (bool(lengths) and len(body) >= int(lengths[0]))
