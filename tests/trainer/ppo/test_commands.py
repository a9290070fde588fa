"""The commands of token-level PPO from the first to the last, as somebody would type them."""

import json
import shutil

import pytest
from typer.testing import CliRunner

from service.contract.policy import load_policy
from trainer.__main__ import app
from trainer.prompt_files import read_prompts

pytestmark = pytest.mark.usefixtures("one_thread")


def _run(*words):
    done = CliRunner().invoke(app, [*map(str, words), "--json"])
    assert done.exit_code == 0, done.output + repr(done.exception)
    return json.loads(done.stdout.splitlines()[-1])


def test_from_prompts_to_a_policy_whose_relevance_is_measured(tiny_policy, tmp_path):
    shutil.copytree(tiny_policy, tmp_path / "tiny")
    base, engine = tmp_path / "tiny", ("--engine", "transformers_local")
    prompts, labels = tmp_path / "prompts.parquet", tmp_path / "labels"

    _run("prompts", "--kind", "simulated", "--most", 260, "--output", prompts)
    labelled = _run(
        "label",
        "--prompts",
        prompts,
        "--policy",
        base,
        "--output",
        labels,
        "--judge",
        "intent",
        "--max-tokens",
        8,
        *engine,
    )
    model = ("--output", tmp_path / "rm", "--work", tmp_path / "rm-work", "--version", "rm", "--epochs", 0.5)
    _run("reward", "--labels", labels, "--policy", base, "--batch-size", 16, *model)
    trained = _run(
        *("ppo", "--prompts", prompts, "--policy", base, "--output", tmp_path / "ppo-1", "--version", "ppo-1"),
        *("--work", tmp_path / "work", "--reward", "token_model=0.5", "--reward", "judge=0.5", "--judge", "intent"),
        *("--token-model", tmp_path / "rm", "--steps", 2, "--responses", 8, "--batch-size", 4, "--max-tokens", 8),
        *("--watch", "intent", "--milestone", 1, "--engine", "model"),
    )
    measured = _run(
        "relevance", base, tmp_path / "ppo-1", "--prompts", prompts, "--most", 12, "--judge", "intent", *engine
    )

    assert (labelled["responses"], labelled["unjudged"]) == (260, 0)
    assert trained["version"] == "ppo-1"
    assert "relevance" in trained["figures"]
    assert (tmp_path / "work" / "milestone-1" / "adapter_config.json").is_file()
    assert load_policy(tmp_path / "ppo-1").lineage == "tiny"
    found = measured["sets"]["prompts"]
    assert set(found["policies"]) == {"tiny", "ppo-1"}
    assert found["policies"]["tiny"]["kl"] == 0.0
    assert set(found["duels"]) == {"ppo-1 against tiny"}


def test_a_log_becomes_prompts_of_the_people_and_time_asked_for(tmp_path):
    log = tmp_path / "sessions.jsonl"
    log.write_text(
        "".join(json.dumps({"session": k, "queries": [f"{k} {n}" for n in range(5)]}) + "\n" for k in range(30))
    )
    output = tmp_path / "prompts.parquet"

    said = _run("prompts", "--kind", "sessions", "--log", log, "--people", "0:0.5", "--newest", 2, "--output", output)

    assert said["prompts"] == len(read_prompts(output))
    assert 5 < said["prompts"] < 25


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("prompts", "--kind", "aol"), "Give it by --log"),
        (("prompts", "--kind", "aol", "--log", "x", "--people", "most"), "is no share of people"),
        (("ppo", "--reward", "ctr=lots"), "no reward with a weight"),
    ],
)
def test_what_cannot_be_done_says_how_it_can(tmp_path, tiny_policy, words, says):
    more = {
        "prompts": ("--output", tmp_path / "p"),
        "ppo": (
            *("--task", "suggest", "--prompts", tmp_path, "--policy", tiny_policy, "--output", tmp_path / "o"),
            *("--version", "v"),
        ),
    }

    done = CliRunner().invoke(app, [*words, *map(str, more[words[0]])])

    assert says in str(done.exception)
