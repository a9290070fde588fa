"""`nextquery models promote` and `rollback`: one command each, no question asked, a sentence when it cannot be."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from service.contract import database, registry
from service.contract.settings import Timeouts
from tests.service_process import adapter_policy, scripted_policy

Ask = Callable[..., tuple[int, str, str]]


@pytest.fixture
def url(migrated_sqlite: Path, tmp_path: Path) -> str:
    return f"sqlite+aiosqlite:///{shutil.copy(migrated_sqlite, tmp_path)}"


@pytest.fixture
def ask(tmp_path: Path, url: str) -> Ask:
    """Runs one command of models; returns exit code, stdout and stderr."""
    environment = {**os.environ, "NEXTQUERY_DATA_DIR": str(tmp_path), "NEXTQUERY_DATABASE_URL": url}

    def run(*words: str) -> tuple[int, str, str]:
        command = [sys.executable, "-m", "service", "models", *words]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.fixture
def policies(tmp_path: Path, url: str) -> list[Path]:
    """A base and an adapter on it, registered for every task."""
    base = scripted_policy(tmp_path / "sft-1", "sft-1")
    directories = [base, adapter_policy(tmp_path / "dpo-1", base)]

    async def register() -> None:
        opened = database.create(url, Timeouts())
        for directory in directories:
            await registry.register(opened, version=directory.name, kind="policy", task="*", directory=directory)
        await opened.dispose()

    asyncio.run(register())
    return directories


def test_a_version_is_promoted_and_rolled_back_by_one_command_each(ask: Ask, policies: list[Path]) -> None:
    first, second, again = (ask("promote", name, "--json") for name in ("sft-1", "dpo-1", "dpo-1"))
    back = ask("rollback", "--json")
    said = ask("rollback")

    champions = [json.loads(out) for _, out, _ in (first, second, again, back)]
    assert [code for code, _, _ in (first, second, again, back, said)] == [0] * 5
    assert [(c["version"], c["previous"], c["revision"]) for c in champions] == [
        ("sft-1", None, 1),
        ("dpo-1", "sft-1", 2),
        ("dpo-1", "sft-1", 2),  # nothing to change
        ("sft-1", "dpo-1", 3),
    ]
    assert {(c["kind"], c["task"]) for c in champions} == {("policy", "*")}
    assert said[1] == "dpo-1 is the policy for *, in the place of sft-1.\n"


def test_a_task_gets_a_champion_of_its_own(ask: Ask, policies: list[Path]) -> None:
    ask("promote", "sft-1")

    own = ask("promote", "dpo-1", "--task", "hint", "--json")
    none = ask("rollback", "--task", "hint")

    assert json.loads(own[1])["task"] == "hint"
    assert (none[0], "no earlier policy for 'hint'" in none[2]) == (2, True)


def test_what_no_service_would_take_up_is_not_promoted(ask: Ask, policies: list[Path]) -> None:
    ask("promote", "sft-1")
    shutil.rmtree(policies[0])

    refused = ask("promote", "dpo-1")
    unknown = ask("promote", "dpo-7")
    served = json.loads(ask("list", "--json")[1])

    assert (refused[0], unknown[0]) == (2, 2)
    assert "an adapter on sft-1, which is neither beside it" in refused[2]
    assert "There is no model version dpo-7" in unknown[2]
    assert "Traceback" not in refused[2] + unknown[2]
    assert {row["version"]: row["champion"] for row in served} == {"sft-1": "policy for *", "dpo-1": None}
