"""PPO from files to files: what it publishes is a policy like any other, and a killed run goes on."""

import asyncio
import json
import shutil
from dataclasses import replace

import pytest
import torch

from service.contract.engine import Sampling
from service.contract.errors import ArtifactError, ConfigurationError
from service.contract.policy import load_policy
from service.contract.settings import Settings
from service.engines import create_engine
from tests.trainer.ppo.tiny_run import predict_prompts
from trainer.methods.models import fresh
from trainer.ppo.actor_critic import ActorCritic
from trainer.ppo.config import PpoConfig
from trainer.ppo.rollout import EngineRollouts, ModelRollouts
from trainer.ppo.run import PpoRun, run_ppo, suggested_length
from trainer.prompt_files import KnownPrompt
from trainer.relevance import divergence
from trainer.rewards import names
from trainer.token_reward.model import new_model, save_model

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIG = PpoConfig(
    steps=4,
    prompts=8,
    batch_size=8,
    epochs=1,
    learning_rate=1e-2,
    max_tokens=6,
    save_steps=2,
    lora_rank=4,
    lora_alpha=8,
)


@pytest.fixture
def base(tiny_policy, tmp_path):
    """The tiny policy under its version, as an adapter beside it looks for it."""
    shutil.copytree(tiny_policy, tmp_path / "tiny")
    return load_policy(tmp_path / "tiny")


def _run(base, tmp_path, name="ppo-1", **how):
    torch.manual_seed(1)
    model = tmp_path / "rm"
    if not model.exists():
        save_model(new_model(base, "token", looks_ahead=True), base, model, version="rm", card="# rm\n")
    prompts = [KnownPrompt(prompt=prompt, targets=("rice", "tea", "how to cook rice")) for prompt in predict_prompts()]
    wanted = PpoRun(
        policy=base,
        prompts=prompts,
        output=tmp_path / name,
        work=tmp_path / f"{name}-work",
        version=name,
        rewards={"token_model": 1.0},
        models={"token_model": model},
        engine="model",
        config=CONFIG,
    )
    return replace(wanted, **how)


def test_what_it_publishes_is_an_adapter_that_an_engine_serves(base, tmp_path):
    told = run_ppo(_run(base, tmp_path), quiet=True)

    policy = load_policy(tmp_path / "ppo-1")
    assert (policy.version, policy.lineage, policy.model_directory) == ("ppo-1", "tiny", tmp_path / "tiny")
    assert told["figures"]["step"] == 4
    pictures = {each.name for each in (tmp_path / "ppo-1-work").glob("*.png")}
    assert pictures == {f"{name}.png" for name in ("reward", "kl", "length", "entropy", "losses", "explained")}

    async def written():
        engine = create_engine("transformers_local", policy.model_directory, Settings())
        await engine.start()
        try:
            return await engine.generate("1", (5, 6, 7), Sampling(max_tokens=3, temperature=0.0), policy.adapter)
        finally:
            await engine.close()

    assert asyncio.run(written())[0].token_ids


def test_every_weight_can_be_trained_into_a_whole_model(base, tmp_path):
    run_ppo(_run(base, tmp_path, config=replace(CONFIG, lora_rank=0, learning_rate=1e-3)), quiet=True)

    policy = load_policy(tmp_path / "ppo-1")
    assert policy.adapter is None
    assert policy.model_directory == tmp_path / "ppo-1"


def test_a_policy_that_is_an_adapter_goes_on_and_still_stands_on_the_first_base(base, tmp_path):
    run_ppo(_run(base, tmp_path), quiet=True)
    first = load_policy(tmp_path / "ppo-1")

    told = run_ppo(_run(first, tmp_path, "ppo-2"), quiet=True)

    second = load_policy(tmp_path / "ppo-2")
    assert (second.lineage, second.model_directory) == ("ppo-1", tmp_path / "tiny")
    lines = [json.loads(line) for line in (tmp_path / "ppo-2-work" / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["kl"] != pytest.approx(0.0, abs=1e-4)  # of the base, not of the policy that it goes on from
    assert told["version"] == "ppo-2"


def test_a_killed_run_goes_on_and_ends_alike(base, tmp_path):
    whole = run_ppo(_run(base, tmp_path, "whole"), quiet=True)
    wanted = _run(base, tmp_path, "killed")
    (wanted.work).mkdir()
    half = replace(wanted, output=tmp_path / "half", config=replace(CONFIG, steps=2))
    run_ppo(half, quiet=True)
    (wanted.work / "run.json").unlink()  # a run of two steps stands for one that was killed after two

    resumed = run_ppo(wanted, quiet=True)

    lines = [json.loads(line)["step"] for line in (wanted.work / "metrics.jsonl").read_text().splitlines()]
    assert lines == [1, 2, 3, 4]
    same = ("reward", "kl", "length", "policy_loss", "value_loss")
    assert {name: resumed["figures"][name] for name in same} == pytest.approx(
        {name: whole["figures"][name] for name in same}, abs=1e-5
    )


def test_the_work_of_another_run_is_not_mixed(base, tmp_path):
    run_ppo(_run(base, tmp_path), quiet=True)

    with pytest.raises(ConfigurationError, match="learning_rate differ"):
        run_ppo(_run(base, tmp_path, output=tmp_path / "other", config=replace(CONFIG, learning_rate=2e-3)), quiet=True)


def test_classes_are_worth_what_is_known_only(base, tmp_path):
    with pytest.raises(ConfigurationError, match="published or centred, not 'paper'"):
        run_ppo(_run(base, tmp_path, values="paper"), quiet=True)


def test_a_version_never_changes(base, tmp_path):
    (tmp_path / "ppo-1").mkdir()

    with pytest.raises(ArtifactError, match="exists already"):
        run_ppo(_run(base, tmp_path), quiet=True)


def test_the_suggested_length_is_that_of_nine_in_ten_targets(base):
    prompts = predict_prompts(10)
    texts = ["rice"] * 8 + ["how to cook rice"] * 2

    def length(text):
        return len(base.tokenizer.encode_response(text))

    found = suggested_length([KnownPrompt(prompt=p, targets=(t,)) for p, t in zip(prompts, texts, strict=True)], base)

    assert found == length("how to cook rice")
    with pytest.raises(ArtifactError, match="--suggested-length"):
        suggested_length([KnownPrompt(prompt=prompts[0])], base)


def test_pay_at_the_end_and_mixtures_are_the_same_path(base, tmp_path):
    told = run_ppo(
        _run(base, tmp_path, at_the_end=True, rewards={"token_model": 0.5, "judge": 0.5}, suggested_length=9.0),
        quiet=True,
    )

    assert told["figures"]["suggested_length"] == 9.0
    assert "judge" in names()


async def test_an_engine_writes_with_the_adapter_of_now_and_forgets_the_one_before(base, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base.directory, dtype=torch.float32)
    actor = ActorCritic(get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")))
    engine = create_engine("transformers_local", base.directory, Settings())
    rollouts = EngineRollouts(engine, base, tmp_path / "rollouts", max_tokens=5, seed=1)
    prompts = predict_prompts(3)
    await engine.start()
    try:
        first = await rollouts.write(actor, prompts, 0)
        again = await rollouts.write(actor, prompts, 0)
        for name, weight in actor.policy.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=2.0)
        changed = await rollouts.write(actor, prompts, 0)
    finally:
        await engine.close()

    ids = [[each.response.ids for each in written] for written in (first, again, changed)]
    assert ids[0] == ids[1]
    assert ids[0] != ids[2]
    assert len(list((tmp_path / "rollouts").iterdir())) == 1


def test_the_divergence_is_the_mean_of_what_the_policy_writes_more_often_than_its_base(base, tmp_path):
    run_ppo(_run(base, tmp_path), quiet=True)
    policy, model = load_policy(tmp_path / "ppo-1"), fresh(load_policy(tmp_path / "ppo-1"))
    rollouts = ModelRollouts(base.tokenizer, max_tokens=6, seed=1)
    written = asyncio.run(rollouts.write(ActorCritic(model), predict_prompts(5), 0))

    def logprob(each):
        with torch.no_grad():
            found = model(torch.tensor([[*each.prompt_ids, *each.response.ids]])).logits[0].log_softmax(-1)
        first = len(each.prompt_ids) - 1
        return sum(found[first + t, token].item() for t, token in enumerate(each.response.ids))

    mine = [logprob(each) for each in written]
    with model.disable_adapter():
        bases = [logprob(each) for each in written]

    assert divergence(policy, written) == pytest.approx((sum(mine) - sum(bases)) / 5, abs=1e-4)
    assert abs(sum(mine) - sum(bases)) > 0.01
    assert divergence(base, written) == 0.0
