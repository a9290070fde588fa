"""The loop of PPO on a model of one layer: it learns what pays, step one is neutral, and a killed run ends like a whole one."""

import asyncio
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from service.contract.errors import ArtifactError
from service.contract.policy import load_policy
from service.contract.types import EventSource, HistoryEvent, PromptContext
from tests.trainer.ppo.tiny_run import LikesEven, actor_of, predict_prompts
from trainer.ppo import loop
from trainer.ppo.actor_critic import ActorCritic, Sequences, logprobs_of
from trainer.ppo.config import PpoConfig
from trainer.ppo.loop import train
from trainer.ppo.rollout import ModelRollouts, prompt_ids_of
from trainer.prompts import prompt_of

SAME_WEIGHT = 1e-6
PARITY_TOLERANCE = 1e-5  # the gradient's mean is taken in another order
CONFIG = PpoConfig(
    steps=6, prompts=16, batch_size=8, epochs=2, learning_rate=3e-3, max_tokens=6, save_steps=2, beta=0.01, seed=1
)


def _train(tiny_policy, work, config=CONFIG, source=None, reports=None):
    policy = load_policy(tiny_policy)
    actor, kept = actor_of(policy), [] if reports is None else reports
    rollouts = ModelRollouts(policy.tokenizer, max_tokens=config.max_tokens, seed=config.seed)

    def report(done, figures):
        kept.append(figures)

    asyncio.run(train(actor, None, predict_prompts(), rollouts, source or LikesEven(), config, work, report))
    return actor, kept


def _weights(actor):
    return {name: weight.detach().clone() for name, weight in actor.named_parameters() if weight.requires_grad}


def test_a_policy_of_whom_every_weight_is_trained_learns_to_write_what_pays(tiny_policy, tmp_path):
    policy = load_policy(tiny_policy)
    whole, reference = (AutoModelForCausalLM.from_pretrained(policy.model_directory, dtype=torch.float32) for _ in "ab")
    rollouts = ModelRollouts(policy.tokenizer, max_tokens=CONFIG.max_tokens, seed=1)
    config, reports = replace(CONFIG, steps=30, learning_rate=3e-3, lora_rank=0), []

    def report(done, figures):
        reports.append(figures)

    asyncio.run(
        train(ActorCritic(whole), reference.eval(), predict_prompts(), rollouts, LikesEven(), config, tmp_path, report)
    )

    first, last = (sum(each["reward"] for each in part) / 5 for part in (reports[:5], reports[-5:]))
    assert last > first + 1.0  # of 6 tokens about 3 are even at first
    assert reports[-1]["kl"] > 0.1


def test_step_one_looks_from_the_reference_itself(tiny_policy, tmp_path):
    config = replace(CONFIG, steps=1, epochs=1, batch_size=16)

    _, [only] = _train(tiny_policy, tmp_path, config)

    assert only["kl"] == pytest.approx(0.0, abs=1e-5)
    assert only["clipped"] == 0.0
    assert only["policy_loss"] == pytest.approx(
        0.0, abs=1e-5
    )  # whitened advantages sum to nothing where the ratio is 1


def test_a_killed_run_ends_like_a_whole_one(tiny_policy, tmp_path):
    whole, _ = _train(tiny_policy, tmp_path / "whole")
    half = replace(CONFIG, steps=4)
    _train(tiny_policy, tmp_path / "killed", half)

    resumed, reports = _train(tiny_policy, tmp_path / "killed")

    assert [each["step"] for each in reports] == [5, 6]
    for name, weight in _weights(whole).items():
        assert torch.allclose(_weights(resumed)[name], weight, atol=SAME_WEIGHT), name


def test_a_reward_that_is_no_number_stops_and_the_last_checkpoint_stays(tiny_policy, tmp_path):
    half = replace(CONFIG, steps=2)
    _train(tiny_policy, tmp_path, half)

    with pytest.raises(ArtifactError, match="of step 3 is nan"):
        _train(tiny_policy, tmp_path, source=LikesEven(pays=float("nan")))

    assert [each.name for each in tmp_path.glob("step-*")] == ["step-000002"]


def test_padding_changes_no_log_probability(tiny_policy):
    policy = load_policy(tiny_policy)
    model = AutoModelForCausalLM.from_pretrained(policy.model_directory, dtype=torch.float32).eval()
    asked = [
        prompt_ids_of(prompt, policy.tokenizer)[-20 - number :] for number, prompt in enumerate(predict_prompts(3))
    ]
    written = [(300, 301), (302,), (303, 304, 305, 306)]

    together = logprobs_of(model, Sequences.of(asked, written))

    for row, (prompt, response) in enumerate(zip(asked, written, strict=True)):
        ids = torch.tensor([[*prompt, *response]])
        with torch.no_grad():
            everything = model(ids).logits.log_softmax(-1)[0]
        expected = [everything[len(prompt) - 1 + t, token_id].item() for t, token_id in enumerate(response)]
        assert together[row, : len(response)].tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
def test_two_processes_end_as_one(tiny_policy, tmp_path):
    def run(name, *launcher):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": os.getcwd()}
        command = [
            sys.executable,
            *launcher,
            "-m",
            "tests.trainer.ppo.tiny_run",
            str(tiny_policy),
            str(tmp_path / name),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
        assert done.returncode == 0, done.stderr
        return torch.load(tmp_path / name / "trained.pt")

    alone = run("alone")
    together = run("together", "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")

    assert alone.keys() == together.keys()
    for name, weight in alone.items():
        assert torch.allclose(together[name], weight, atol=PARITY_TOLERANCE), name
    assert max(weight.abs().max().item() for name, weight in alone.items() if "lora_B" in name) > 100 * PARITY_TOLERANCE


def test_responses_of_which_nobody_knows_the_worth_are_not_learnt_from(tiny_policy, tmp_path):
    class Knows:
        name, is_model = "knows", False

        def __init__(self, how_many):
            self._how_many = how_many

        def earned(self, rollouts):
            earned = LikesEven().earned(rollouts)
            return [each if number < self._how_many else None for number, each in enumerate(earned)]

    one_step = replace(CONFIG, steps=1, epochs=1, batch_size=16)
    start = _weights(actor_of(load_policy(tiny_policy)))

    some, [told] = _train(tiny_policy, tmp_path / "some", one_step, source=Knows(10))
    none, [nothing] = _train(tiny_policy, tmp_path / "none", one_step, source=Knows(0))

    assert (told["unjudged"], nothing["unjudged"]) == (6, 15)  # of none the mean is over one
    assert any(not torch.equal(start[name], weight) for name, weight in _weights(some).items())
    assert all(torch.equal(start[name], weight) for name, weight in _weights(none).items())


def test_a_batch_holds_prompts_of_like_length_and_every_prompt_once():
    prompts = [prompt_of("predict", _context(number)) for number in range(32)]
    config = replace(CONFIG, prompts=32, batch_size=8)

    found = loop._prompts_of(prompts, 3, config)

    lengths = [len(prompt.context.history) for prompt in found]
    batches = [lengths[at : at + 8] for at in range(0, 32, 8)]
    assert sorted(prompt.prompt_id for prompt in found) == sorted(prompt.prompt_id for prompt in prompts)
    assert all(max(batch) - min(batch) <= 2 for batch in batches)
    assert found == loop._prompts_of(prompts, 3, config)


def _context(number):
    history = tuple(HistoryEvent(source=EventSource.SEARCH, text=f"rice {number} {k}") for k in range(1 + number // 4))
    return PromptContext(n=3, history=history)
