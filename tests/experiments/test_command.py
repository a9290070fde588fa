"""`nextquery experiments`: what a person reads, and what a program does."""

import asyncio
import json

import pytest
from typer.testing import CliRunner

from service.experiments.__main__ import app
from tests.experiments.test_report import _experiment, _run

FILE = """
experiments:
  - id: warm-2
    tasks: [hint]
    arms: [{name: control, weight: 0.5}, {name: warm, weight: 0.5, temperature: 0.9}]
"""


@pytest.fixture
def nextquery(database_url, tmp_path, monkeypatch):
    """Calls the command line on the database of the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NEXTQUERY_DATABASE_URL", database_url)
    monkeypatch.setenv("NEXTQUERY_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *words: CliRunner().invoke(app, words, catch_exceptions=False).stdout


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_report_says_what_came_out_and_draws_it(engine, nextquery, tmp_path):

    await _run(engine, _experiment(), effect=0.5)

    said = await asyncio.to_thread(nextquery, "report", "warm-1", "--plot", str(tmp_path / "days.png"))
    found = json.loads(await asyncio.to_thread(nextquery, "report", "warm-1", "--json"))

    assert "by user" in said
    assert "above 0" in said
    assert "a lift of 10% would be found with probability 0." in said
    assert (tmp_path / "days.png").stat().st_size > 10_000
    assert [arm["name"] for arm in found["arms"]] == ["control", "warm"]
    assert found["arms"][1]["lift"]["always_low"] > 0


def test_a_file_is_applied_listed_and_ended(nextquery, tmp_path):
    (tmp_path / "experiments.yaml").write_text(FILE)

    assert nextquery("apply") == "warm-2 runs.\n"
    assert nextquery("apply") == "Nothing changed.\n"
    assert "warm-2" in nextquery("list")
    assert [each["id"] for each in json.loads(nextquery("list", "--json"))] == ["warm-2"]
    assert "no list yet" in nextquery("report", "warm-2")
    assert "warm-2 has ended" in nextquery("end", "warm-2", "--reason", "we know enough")
    assert "we know enough" in nextquery("list")
