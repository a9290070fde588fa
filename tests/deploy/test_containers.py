"""The files for containers say what these read: stages and paths that there are, settings that are known, health checks.

They are not built: where this is tested there is no Docker.
"""

import fnmatch
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from service.contract.command_line import app
from service.contract.settings import Settings

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
COMPOSE = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
_INSTRUCTIONS = {"FROM", "ARG", "RUN", "WORKDIR", "COPY", "ENV", "VOLUME", "USER", "EXPOSE", "HEALTHCHECK", "CMD"}


def instructions() -> list[tuple[str, str]]:
    """Every instruction with its words; continued lines are one, comments are none."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#")]
    whole = "\n".join(lines).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in whole.splitlines() if line.strip()]  # type: ignore[misc]


def stages() -> dict[str, str]:
    """The name of each stage, and what it stands on."""
    froms = [words.split() for name, words in instructions() if name == "FROM"]
    return {words[2]: words[0] for words in froms}


def test_the_dockerfile_has_both_targets_on_one_installation() -> None:
    assert {name for name, _ in instructions()} <= _INSTRUCTIONS
    assert stages() == {"installed": "python:3.11-slim-bookworm", "service": "installed", "batch": "installed"}


def test_what_is_copied_is_there_and_reaches_the_build() -> None:
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [word for name, words in instructions() if name == "COPY" for word in words.split()[:-1]]

    assert {"pyproject.toml", "deploy", "service", "trainer", "migrations"} <= set(copied)
    for path in copied:
        assert (ROOT / path).exists()
        assert any(fnmatch.fnmatch(path, line[1:]) for line in ignored)


def test_the_service_runs_as_nobody_special_and_says_whether_it_lives() -> None:
    of_service = DOCKERFILE.read_text().split("AS service")[1].split("AS batch")[0]

    assert "USER nextquery" in of_service
    assert "/livez" in of_service


def commands() -> list[list[str]]:
    """What containers run, as words of `nextquery`."""
    found = []
    for name, words in instructions():
        if name in ("CMD", "HEALTHCHECK"):
            called = json.loads(words[words.index("[") :])
            script = called[-1] if called[0] == "sh" else shlex.join(called)
            found += [shlex.split(each) for each in re.findall(r"nextquery [a-z][a-z ]*[a-z]", script)]
    return found


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_of_a_container_is_there(words: list[str]) -> None:
    asked = CliRunner().invoke(app, [*words[1:], "--help"])

    assert asked.exit_code == 0, asked.output


@pytest.mark.parametrize("name", SERVICES)
def test_each_container_of_compose_is_whole(name: str) -> None:
    service: dict[str, Any] = SERVICES[name]

    assert service["restart"] == "unless-stopped"
    if "build" in service:
        assert service["build"]["target"] in stages()
        assert (ROOT / "deploy" / service["build"]["context"]).resolve() == ROOT
        assert (ROOT / service["build"]["dockerfile"]).is_file()
    else:
        assert re.fullmatch(r"[a-z]+:[\w.-]+", service["image"])
        assert service["healthcheck"]["test"]
    for other, condition in service.get("depends_on", {}).items():
        assert other in SERVICES
        assert condition == {"condition": "service_healthy"}
    for volume in service.get("volumes", ()):
        assert volume.split(":")[0] in COMPOSE["volumes"]


def test_every_setting_in_the_files_is_known() -> None:
    known = {f"NEXTQUERY_{name.upper()}" for name in Settings.model_fields}
    text = DOCKERFILE.read_text() + (ROOT / "deploy" / "compose.yaml").read_text()

    assert set(re.findall(r"NEXTQUERY_[A-Z_]*[A-Z]", text)) <= known


def test_nothing_listens_beyond_this_machine_and_no_password_is_written_down() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", ())]

    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert "${POSTGRES_PASSWORD:?" in SERVICES["postgres"]["environment"]["POSTGRES_PASSWORD"]
