"""A short run of PPO on a model of one layer, in one process or several: `python -m tests.trainer.ppo.tiny_run POLICY WORK`."""

import asyncio
import os
import sys
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from service.contract.policy import load_policy
from service.contract.types import EventSource, HistoryEvent, PromptContext
from trainer.ppo.actor_critic import ActorCritic
from trainer.ppo.config import PpoConfig
from trainer.ppo.loop import train
from trainer.ppo.rollout import ModelRollouts
from trainer.prompts import prompt_of


class LikesEven:
    """Pays for tokens of even number wherever they stand."""

    name, is_model = "likes_even", False

    def __init__(self, pays=1.0):
        self._pays = pays

    def earned(self, rollouts):
        return [[self._pays * (token_id % 2 == 0) for token_id in each.response.ids] for each in rollouts]


def predict_prompts(count=8):
    def context(number):
        history = tuple(HistoryEvent(source=EventSource.SEARCH, text=f"rice {number} {k}") for k in range(2))
        return PromptContext(n=3, history=history)

    return [prompt_of("predict", context(number)) for number in range(count)]


def actor_of(policy):
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_pretrained(policy.model_directory, dtype=torch.float32)
    lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    return ActorCritic(get_peft_model(model, lora))


def main(directory, work):
    """Three steps; the weights that were trained lie in WORK/trained.pt."""
    policy = load_policy(directory)
    actor = actor_of(policy)
    config = PpoConfig(steps=3, prompts=8, batch_size=4, learning_rate=3e-3, max_tokens=5, save_steps=3)
    rollouts = ModelRollouts(policy.tokenizer, max_tokens=5, seed=1, at_once=1)  # no response depends on its neighbours
    prompts = predict_prompts()
    asyncio.run(train(actor, None, prompts, rollouts, LikesEven(), config, work, lambda done, figures: None))
    if int(os.environ.get("RANK", "0")) == 0:
        trained = {name: weight.detach() for name, weight in actor.named_parameters() if weight.requires_grad}
        torch.save(trained, work / "trained.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
