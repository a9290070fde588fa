"""Schemathesis over the whole OpenAPI document, all checks: no 5xx, every status documented, every reply as promised.

It knows no call by name.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis.pytest import from_fixture

from tests.service_process import ServiceProcess, running

_EXAMPLES = 60


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory, policy_directory: Path) -> Iterator[ServiceProcess]:
    """A real process with the scripted engine."""
    directory = tmp_path_factory.mktemp("schemathesis")
    with running(directory, until="/readyz", engine="scripted", policy=str(policy_directory)) as started:
        yield started


@pytest.fixture(scope="module")
def document(process: ServiceProcess) -> Any:
    """The document as the service publishes it."""
    return schemathesis.openapi.from_url(f"{process.url}/openapi.json")


schema = from_fixture("document")


@schema.parametrize()
@hypothesis.settings(
    max_examples=_EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(hypothesis.HealthCheck)
)
def test_the_service_does_what_its_document_says(case: schemathesis.Case) -> None:
    case.call_and_validate()


def test_the_document_names_every_call(document: Any) -> None:
    paths = {operation.ok().path for operation in document.get_all_operations()}

    assert paths >= {"/recommend", "/click", "/livez", "/readyz", "/metrics", "/version"}
