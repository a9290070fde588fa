"""Schemathesis over the whole OpenAPI document, all checks: no 5xx, every status documented, every reply as promised.

It knows no call by name.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.service_process import ServiceProcess, running

_EXAMPLES = 25  # for each call, besides Schemathesis' own systematic cases
_SEED = 1


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory, policy_directory: Path) -> Iterator[ServiceProcess]:
    """A real process with the scripted engine."""
    directory = tmp_path_factory.mktemp("schemathesis")
    with running(directory, until="/readyz", engine="scripted", policy=str(policy_directory)) as started:
        yield started


def test_the_service_does_what_its_document_says(process: ServiceProcess, tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{process.url}/openapi.json"]
    command += ["--checks=all", f"--max-examples={_EXAMPLES}", f"--seed={_SEED}", "--no-color", "--continue-on-failure"]

    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=110, check=False)

    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert process.metric("nextquery_request_seconds_count", route="/recommend", status="200") > 20
    assert process.metric("nextquery_request_seconds_count", route="/recommend", status="422") > 20


def test_the_document_names_every_call(process: ServiceProcess) -> None:
    document = httpx.get(f"{process.url}/openapi.json", timeout=5).json()

    assert document["paths"].keys() >= {"/recommend", "/click", "/livez", "/readyz", "/metrics", "/version"}
