"""The commands that compare methods, from files to files."""

import asyncio
import json
from datetime import UTC, datetime

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from service.contract.errors import ConfigurationError, NotEnoughData
from service.contract.settings import STARTER
from tests.ctr.small_log import small_log, snapshot_of
from tests.ctr.tiny_predictor import tiny_predictor
from trainer.__main__ import app
from trainer.audience.audience import Audience
from trainer.audience.in_process import LogConfig, simulate_log
from trainer.audience.listers import at_random


@pytest.fixture
def predictors(tmp_path):
    """Options that name two small predictors."""
    made = {
        name: tiny_predictor(tmp_path / name, version=name, seed=k) for k, name in enumerate(("search", "judge"), 1)
    }
    return [part for name, place in made.items() for part in (f"--{name}-predictor", str(place))]


@pytest.fixture
def log(tmp_path):
    """Three days of simulated people who saw random lists."""
    config = LogConfig(
        task="suggest", impressions=1_200, since=datetime(2026, 11, 1, tzinfo=UTC), days=3, people_a_list=2
    )
    asyncio.run(simulate_log(at_random(Audience()), Audience(), config, tmp_path / "log"))
    return tmp_path / "log"


def invoke(*words):
    return CliRunner().invoke(app, list(map(str, words)))


@pytest.mark.parametrize("command", ["compare", "clicks"])
def test_every_command_explains_itself(command):
    result = invoke(command, "--help")

    assert result.exit_code == 0
    assert "--json" in result.output


def test_clicked_lists_of_a_log_are_written_for_methods_that_take_single_lists(tmp_path):
    snapshot_of(tmp_path / "log", small_log(4, 150))
    options = ["--task", "suggest", "--snapshot", tmp_path / "log", "--policy", STARTER, "--days", "3", "--json"]

    result = invoke("clicks", *options, "--output", tmp_path / "lists.parquet", "--lists", "90")

    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["rows"], told["clicked"], told["unclicked"]) == (180, 90, 90)
    assert pq.read_table(tmp_path / "lists.parquet").num_rows == 180


def test_a_log_with_too_few_clicks_says_how_many_there_are(tmp_path):
    snapshot_of(tmp_path / "log", small_log(3, 10))
    options = ["--task", "suggest", "--snapshot", tmp_path / "log", "--policy", STARTER]

    result = invoke("clicks", *options, "--output", tmp_path / "lists.parquet")

    assert isinstance(result.exception, NotEnoughData)
    assert not (tmp_path / "lists.parquet").exists()


def _options(log, tmp_path, predictors):
    return [
        *("--task", "suggest", "--snapshot", log, *predictors, "--policy", STARTER),
        *("--few-shot", STARTER.parent / "base", "--output", tmp_path / "policies", "--work", tmp_path / "work"),
        *("--engine", "transformers_local", "--few-shot-engine", "transformers_local"),
        *("--prompts", 4, "--test-prompts", 6, "--prompt-days", 2, "--lists", 64, "--epochs", 0.25, "--max-rounds", 1),
    ]


@pytest.mark.slow
@pytest.mark.timeout(480)
def test_a_table_of_some_rows_is_told_drawn_and_gone_on_with(log, tmp_path, predictors):
    options = _options(log, tmp_path, predictors)

    first = invoke("compare", *options, "--row", "few_shot", "--row", "kto_clk", "--row", "dpo_ctr", "--json")

    assert first.exit_code == 0, first.output
    rows = json.loads(first.stdout)
    assert [row["name"] for row in rows] == ["sft", "few_shot", "kto_clk", "dpo_ctr"]
    assert rows[0]["improvement"] == 0.0
    assert all(row["assessment"]["prompts"] == 6 and row["problem"] is None for row in rows)
    assert all(set(row["quality"]) == {"embedding"} for row in rows[1:])
    assert {"aec.png", "quality-embedding.png"} <= {path.name for path in (tmp_path / "work").glob("*.png")}

    again = invoke("compare", *options, "--row", "few_shot", "--row", "kto_clk")
    assert again.exit_code == 0, again.output
    assert "kto_clk" in again.stdout
    assert f"{rows[2]['assessment']['aec']['judge']:.4f}" in again.stdout


def test_one_predictor_for_both_is_refused(log, tmp_path, predictors):
    one = ["--search-predictor", predictors[1], "--judge-predictor", predictors[1]]

    result = invoke("compare", *_options(log, tmp_path, one))

    assert isinstance(result.exception, ConfigurationError)
    assert "would search or reward, and judge" in str(result.exception)
