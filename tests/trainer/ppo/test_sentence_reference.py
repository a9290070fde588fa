"""Rewards that are paid at the end of sequence alone, against sentence-level PPO written once more, response by response.

The reference shares no line with the loop: no padding, no masks, no batches; scalars, and one backward pass.
"""

import asyncio
import math

import pytest
import torch

from service.contract.policy import load_policy
from tests.trainer.ppo.tiny_run import LikesEven, actor_of, predict_prompts
from trainer.ppo.config import PpoConfig
from trainer.ppo.loop import train
from trainer.ppo.rollout import ModelRollouts
from trainer.rewards import AtTheEnd

CONFIG = PpoConfig(
    steps=1,
    prompts=8,
    batch_size=8,
    epochs=1,
    learning_rate=1e-3,
    max_tokens=7,
    save_steps=1,
    beta=0.3,
    decay=0.9,
    seed=2,
)
SAME = 2e-6
# Of another policy than the reference, so that the divergence is not 0.
SHIFT = 0.05


def _shifted(policy):
    actor = actor_of(policy)
    generator = torch.Generator().manual_seed(5)
    for name, weight in actor.named_parameters():
        if "lora_B" in name:
            weight.data = SHIFT * torch.randn(weight.shape, generator=generator)
    torch.nn.init.normal_(actor.value_head.weight, std=0.1, generator=generator)
    return actor


class _Kept:
    """Rollouts that were written once."""

    def __init__(self, written):
        self._written = written

    async def write(self, actor, prompts, step):
        known = {each.prompt.prompt_id: each for each in self._written}
        return [known[prompt.prompt_id] for prompt in prompts]


def _said(actor, each):
    """Log-probability and value of every token of one response, with gradients."""
    ids, first = torch.tensor([[*each.prompt_ids, *each.response.ids]]), len(each.prompt_ids)
    found = actor.policy(ids, output_hidden_states=True)
    logprobs, hidden = found.logits[0].float().log_softmax(-1), found.hidden_states[-1][0]
    chosen = [logprobs[first - 1 + t, token] for t, token in enumerate(each.response.ids)]
    values = [actor.value_head(hidden[first - 1 + t].float())[0] for t in range(len(each.response.ids))]
    return chosen, values


def _sentence_ppo(actor, written):
    """One update by PPO whose only reward comes with the last token of a response."""
    said = [_said(actor, each) for each in written]
    gains, returns = [], []
    for each, (chosen, values) in zip(written, said, strict=True):
        with torch.no_grad(), actor.policy.disable_adapter():
            reference = [value.item() for value in _said(actor, each)[0]]
        pay = [-CONFIG.beta * (mine.item() - theirs) for mine, theirs in zip(chosen, reference, strict=True)]
        pay[-1] += sum(token % 2 == 0 for token in each.response.ids)
        expected = [value.item() for value in values] + [0.0]
        gain, gained = 0.0, []
        for t in reversed(range(len(pay))):
            gain = pay[t] + expected[t + 1] - expected[t] + CONFIG.decay * gain
            gained.insert(0, gain)
        gains.append(gained)
        returns.append([g + v for g, v in zip(gained, expected, strict=False)])
    flat = [gain for gained in gains for gain in gained]
    mean = sum(flat) / len(flat)
    deviation = math.sqrt(sum((gain - mean) ** 2 for gain in flat) / len(flat))
    loss = torch.zeros(())
    for (chosen, values), gained, returned in zip(said, gains, returns, strict=True):
        for t, gain in enumerate(gained):
            ratio = (chosen[t] - chosen[t].detach()).exp()  # of the policy that wrote it: 1, with a gradient
            loss = loss - ratio * (gain - mean) / deviation
            loss = loss + CONFIG.value_weight * 0.5 * (values[t] - returned[t]) ** 2
    weights = [weight for weight in actor.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=CONFIG.learning_rate, betas=(0.9, 0.95), weight_decay=0.0)
    (loss / len(flat)).backward()
    torch.nn.utils.clip_grad_norm_(weights, CONFIG.max_gradient)
    optimiser.step()


def test_rewards_at_the_end_alone_are_sentence_level_ppo(tiny_policy, tmp_path):
    policy = load_policy(tiny_policy)
    ours, theirs, prompts = _shifted(policy), _shifted(policy), predict_prompts()
    rollouts = ModelRollouts(policy.tokenizer, max_tokens=CONFIG.max_tokens, seed=1)
    written = asyncio.run(rollouts.write(ours, prompts, 0))
    before = {name: weight.detach().clone() for name, weight in ours.named_parameters() if weight.requires_grad}

    reports = []
    source = AtTheEnd(LikesEven())
    asyncio.run(
        train(
            ours, None, prompts, _Kept(written), source, CONFIG, tmp_path, lambda done, figures: reports.append(figures)
        )
    )
    _sentence_ppo(theirs, written)

    assert abs(reports[0]["kl"]) > 0.01
    assert len({len(each.response.ids) for each in written}) > 1 or max(len(each.prompt_ids) for each in written) > 1
    moved = 0.0
    for name, weight in theirs.named_parameters():
        if weight.requires_grad:
            assert torch.allclose(dict(ours.named_parameters())[name], weight, atol=SAME), name
            moved = max(moved, (weight - before[name]).abs().max().item())
    assert moved == pytest.approx(CONFIG.learning_rate, rel=0.05)  # AdamW's first step
