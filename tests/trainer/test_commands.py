"""The commands of `nextquery train`."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from trainer.__main__ import app
from trainer.histories_to_prompts import simulated_prompts
from trainer.prompt_files import write_prompts


@pytest.mark.parametrize("command", ["sft", "preferences", "base", "starter", "evaluate"])
def test_every_command_explains_itself(command):
    result = CliRunner().invoke(app, [command, "--help"])

    assert result.exit_code == 0
    assert "--json" in result.output


def test_importing_the_command_line_imports_no_torch():
    code = "import sys, trainer.__main__; print([m for m in ('torch', 'transformers', 'trl') if m in sys.modules])"

    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "[]"


def test_sft_learns_what_people_typed_next(tiny_policy, tmp_path):
    write_prompts(simulated_prompts(9), tmp_path / "prompts.parquet")
    place = ["--output", str(tmp_path / "out"), "--work", str(tmp_path / "work"), "--json"]
    prompts = ["--prompts", str(tmp_path / "prompts.parquet"), "--batch-size", "3"]

    result = CliRunner().invoke(app, ["sft", "--base", str(tiny_policy), *prompts, *place])

    assert result.exit_code == 0, result.output
    training = json.loads((tmp_path / "out" / "manifest.json").read_text())["training"]
    assert training["lists"] == 9


def test_sft_writes_nothing_but_json_to_stdout(tiny_policy, tmp_path):
    output = tmp_path / "out"
    options = ["--work", str(tmp_path / "work"), "--lists-per-task", "1", "--rewrites", "0", "--json"]

    result = CliRunner().invoke(app, ["sft", "--base", str(tiny_policy), "--output", str(output), *options])

    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["directory"] == str(output)
