"""PPO for one task of a log: prompts of its days, clicks as the reward, and figures that the gate of the night reads."""

import asyncio
import shutil
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from service.contract.errors import ConfigurationError
from service.contract.policy import load_policy
from service.contract.settings import Jobs
from tests.ctr.tiny_predictor import tiny_predictor
from trainer.audience.audience import Audience
from trainer.audience.in_process import LogConfig, simulate_log
from trainer.audience.listers import at_random
from trainer.jobs.gates import against_policy
from trainer.ppo import night
from trainer.ppo.config import PpoConfig
from trainer.ppo.night import TaskPpo, run_for_task
from trainer.ppo.run import PpoRun

pytestmark = pytest.mark.usefixtures("one_thread")

SERVED = {"parse_ok_share": 0.99, "latency_p95_ms": 100.0}


@pytest.fixture
def wanted(tiny_policy, tmp_path):
    """A run on a log of three days; the engine is the one that needs no other process."""
    shutil.copytree(tiny_policy, tmp_path / "tiny")
    audience = Audience()
    log = LogConfig(task="suggest", impressions=90, since=datetime(2026, 11, 1, tzinfo=UTC), days=3)
    asyncio.run(simulate_log(at_random(audience), audience, log, tmp_path / "log"))
    run = PpoRun(
        policy=load_policy(tmp_path / "tiny"),
        prompts=[],
        output=tmp_path / "ppo-1",
        work=tmp_path / "work",
        version="ppo-1",
        rewards={"ctr": 1.0},
        predictor=tiny_predictor(tmp_path / "search", version="search", seed=1),
        engine="model",
        config=PpoConfig(steps=1, prompts=8, batch_size=8, max_tokens=8, lora_rank=4, lora_alpha=8),
    )
    judge = tiny_predictor(tmp_path / "judge", version="judge", seed=2)
    task = TaskPpo(
        task="suggest",
        snapshot=tmp_path / "log",
        judge_predictor=judge,
        prompts=10,
        test_prompts=6,
        prompt_days=2,
        engine="transformers_local",
    )
    return run, task


def test_what_it_tells_is_what_the_gate_of_the_night_reads(wanted):
    run, task = wanted

    told = run_for_task(run, task, quiet=True)

    metrics = told["metrics"]
    assert load_policy(run.output).version == "ppo-1"
    gained = metrics["aec_judge"] > metrics["aec_judge_before"]
    assert told["version"] == ("ppo-1" if gained else "tiny")
    assert metrics["length_ratio"] > 0
    reasons = against_policy(metrics, SERVED, SERVED, Jobs())
    assert not any("None" in reason or "nan" in reason for reason in reasons)


def test_a_killed_run_measures_what_was_published_and_trains_nothing_again(wanted, monkeypatch):
    run, task = wanted
    first = run_for_task(run, task, quiet=True)

    def never(*given, **how):
        raise AssertionError("it was trained already")

    monkeypatch.setattr(night, "run_ppo", never)

    assert run_for_task(run, task, quiet=True)["metrics"] == pytest.approx(first["metrics"])


def test_one_predictor_for_both_is_refused(wanted):
    run, task = wanted

    with pytest.raises(ConfigurationError, match="would search or reward, and judge"):
        run_for_task(run, replace(task, judge_predictor=run.predictor), quiet=True)
    with pytest.raises(ConfigurationError, match="needs two click predictors"):
        run_for_task(run, replace(task, judge_predictor=None), quiet=True)
