"""The command says what is wrong with a log, imports what is good, and ends with a code that scripts can go by."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from service.__main__ import import_log
from service.contract.errors import ConfigurationError, DatabaseError
from service.contract.snapshot import open_snapshot
from tests.imports.logs import AOL, CSV, LOGS

Ask = Callable[..., Any]


@pytest.fixture
def ask(tmp_path: Path, database_url: str) -> Ask:
    """Runs `nextquery import` with these words on a data directory of its own."""
    environment = {"NEXTQUERY_DATA_DIR": str(tmp_path / "data"), "NEXTQUERY_DATABASE_URL": database_url}
    return lambda *words: CliRunner().invoke(import_log, [str(word) for word in words], env=environment)


def file(directory: Path, name: str, content: bytes) -> Path:
    path = directory / name
    path.write_bytes(content)
    return path


def states(report: dict[str, Any]) -> dict[str, str]:
    return {check["name"]: check["state"] for check in report["checks"] if check["state"] != "pass"}


def test_a_sound_log_is_validated_and_imported_with_code_0(ask: Ask, tmp_path: Path) -> None:
    log = file(tmp_path, "log.csv", CSV)

    validated = ask(log, "--format", "csv", "--validate")
    imported = ask(log, "--format", "csv")
    again = ask(log, "--format", "csv")

    assert [result.exit_code for result in (validated, imported, again)] == [0, 0, 0]
    assert "Only checked: 4 searches could be imported, 0 rows could not." in validated.output
    assert "4 searches imported; 0 were there" in imported.output
    assert "0 searches imported; 4 were there" in again.output


def test_a_bad_row_fails_the_validation_but_not_the_import(ask: Ask, tmp_path: Path) -> None:
    log = file(tmp_path, "log.tsv", AOL)

    validated = ask(log, "--format", "aol", "--validate", "--json")
    imported = ask(log, "--format", "aol", "--json")

    assert (validated.exit_code, imported.exit_code) == (1, 0)
    assert states(json.loads(validated.output)[0]) == {"queries": "fail"}
    (report,) = json.loads(imported.output)
    assert (report["rows"], report["stored"], report["joined"], report["set_aside"]) == (5, 3, 1, 1)
    assert report["rejected"] == str(tmp_path / "data" / "imports" / "log.aol.rejected")


def test_several_files_are_imported_and_each_is_reported(ask: Ask, tmp_path: Path) -> None:
    logs = [file(tmp_path, f"{year}.csv", CSV.replace(b"kyoto", b"%d" % year)) for year in (2025, 2026)]

    result = ask(*logs, "--format", "csv", "--json")

    assert result.exit_code == 0
    said = [(report["file"], report["stored"], report["already_there"]) for report in json.loads(result.output)]
    assert said == [(str(logs[0]), 4, 0), (str(logs[1]), 2, 2)]  # the two rows about rice are the same in both


@pytest.mark.parametrize("name", sorted(LOGS))
def test_an_empty_log_is_said_to_be_empty(ask: Ask, tmp_path: Path, name: str) -> None:
    log = file(tmp_path, "log", b"")

    imported = ask(log, "--format", name)
    validated = ask(log, "--format", name, "--validate")

    assert (imported.exit_code, validated.exit_code) == (0, 1)
    assert "The log is empty" in imported.output


def test_a_file_of_another_format_is_said_to_be_so_with_code_1(ask: Ask, tmp_path: Path) -> None:
    result = ask(file(tmp_path, "log.csv", CSV), "--format", "parquet", "--json")

    assert result.exit_code == 1
    assert states(json.loads(result.output)[0]) == {"file": "fail", "amount": "fail"}


def test_options_reach_the_import(ask: Ask, tmp_path: Path) -> None:
    log = file(tmp_path, "log.csv", b"q,visit\nrice,v1\nbeans,v1\n")

    result = ask(
        log, "--format", "csv", "--columns", "query=q,session_id=visit", "--starting-at", "2026-01-05",
        "--sessions-are-people", "--tenant", "acme", "--locale", "de", "--json",
    )  # fmt: skip

    (report,) = json.loads(result.output)
    assert (report["stored"], states(report)) == (2, {"times": "warn"})


def test_mistakes_are_sentences(ask: Ask, tmp_path: Path) -> None:
    log = file(tmp_path, "log.csv", CSV)

    for words in (
        ["--format", "tsv"],
        ["--format", "csv", "--columns", "q"],
        ["--format", "csv", "--starting-at", "x"],
    ):
        assert isinstance(ask(log, *words).exception, ConfigurationError)
    assert ask(tmp_path / "nothing.csv", "--format", "csv").exit_code == 2


def test_a_database_without_tables_is_a_sentence(tmp_path: Path) -> None:
    environment = {"NEXTQUERY_DATA_DIR": str(tmp_path), "NEXTQUERY_DATABASE_URL": ""}

    result = CliRunner().invoke(import_log, [str(file(tmp_path, "log.csv", CSV)), "--format", "csv"], env=environment)

    assert isinstance(result.exception, DatabaseError)
    assert "nextquery db upgrade" in str(result.exception)


def test_an_imported_log_can_be_frozen(tmp_path: Path) -> None:
    environment = {**os.environ, "NEXTQUERY_DATA_DIR": str(tmp_path), "NEXTQUERY_DATABASE_URL": ""}
    log = file(tmp_path, "log.csv", CSV + b"bad \xff\n")
    commands = [
        ["db", "upgrade"],
        ["import", str(log), "--format", "csv", "--sessions-are-people"],
        ["snapshot", "--from", "2026-01-05", "--to", "2026-01-06"],
    ]

    done = [
        subprocess.run([sys.executable, "-m", "service", *words], capture_output=True, text=True, env=environment)
        for words in commands
    ]

    assert [each.returncode for each in done] == [0, 0, 0], [each.stderr for each in done]
    assert "1 row set aside" in done[1].stdout
    assert open_snapshot(tmp_path / "snapshots" / "2026-01-05--2026-01-06").rows("searches") == 4
