"""What a policy writes in a step of PPO, and who writes it: an engine with the adapter of now, or the model itself.

It knows nothing about rewards. Everything is sampled at temperature 1 from the whole distribution, without penalties, for only
then is the ratio to the policy that wrote it 1.
"""

import asyncio
import hashlib
import shutil
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from service.contract.engine import Adapter, Completion, Engine, Sampling
from service.contract.policy import Policy
from service.contract.tasks import get_task
from service.contract.tokenizer import PromptTokenizer
from trainer.candidates.query_sampler import seed_of
from trainer.encoding import PROMPT_BUDGET
from trainer.ppo.actor_critic import ActorCritic, Sequences
from trainer.prompts import AlignmentPrompt
from trainer.words import Response, read_response


@dataclass(frozen=True, slots=True)
class Rollout:
    """One response. `response.ids` end with the end of sequence where it was written: to end is an action, too."""

    prompt: AlignmentPrompt
    prompt_ids: tuple[int, ...]
    response: Response


class Rollouts(Protocol):
    """Whoever writes with the weights of now."""

    async def write(self, actor: ActorCritic, prompts: Sequence[AlignmentPrompt], step: int) -> list[Rollout]:
        """One response for each prompt; step and prompt decide the seed."""
        ...


async def sample(
    engine: Engine,
    policy: Policy,
    prompts: Sequence[AlignmentPrompt],
    *,
    seed: int,
    max_tokens: int,
    adapter: Adapter | None,
) -> list[Rollout]:
    """One response for each prompt at temperature 1; seed and prompt decide it."""
    ends = policy.tokenizer.eos_ids

    def how(prompt: AlignmentPrompt) -> Sampling:
        its_seed = seed_of(seed, prompt.prompt_id)
        return Sampling(max_tokens=max_tokens, temperature=1.0, top_p=1.0, seed=its_seed, stop_token_ids=ends)

    return await _written(engine, policy, prompts, how, adapter)


async def as_served(
    engine: Engine, policy: Policy, prompts: Sequence[AlignmentPrompt], *, seed: int, max_tokens: int
) -> list[Rollout]:
    """One response for each prompt in the policy's own decoding, as a service would show it."""

    def how(prompt: AlignmentPrompt) -> Sampling:
        return policy.sampling(prompt.context, max_tokens=max_tokens, seed=seed_of(seed, prompt.prompt_id))

    return await _written(engine, policy, prompts, how, policy.adapter)


async def _written(
    engine: Engine,
    policy: Policy,
    prompts: Sequence[AlignmentPrompt],
    how: Callable[[AlignmentPrompt], Sampling],
    adapter: Adapter | None,
) -> list[Rollout]:
    asked = [prompt_ids_of(prompt, policy.tokenizer) for prompt in prompts]

    async def one(prompt: AlignmentPrompt, ids: tuple[int, ...]) -> Rollout:
        [completion] = await engine.generate(f"rollout-{uuid.uuid4().hex}", ids, how(prompt), adapter)
        return rollout(prompt, ids, _ids_of(completion), policy.tokenizer)

    return list(await asyncio.gather(*(one(*each) for each in zip(prompts, asked, strict=True))))


class EngineRollouts:
    """An engine, which is started already on the base of the policy; it takes the adapter of every step as a new one."""

    def __init__(self, engine: Engine, policy: Policy, work: Path, *, max_tokens: int, seed: int) -> None:
        """`work`: where the adapter of now lies; it is the engine's until the next step."""
        self._engine, self._policy, self._work = engine, policy, work
        self._max_tokens, self._seed = max_tokens, seed
        self._adapter: Adapter | None = None

    async def write(self, actor: ActorCritic, prompts: Sequence[AlignmentPrompt], step: int) -> list[Rollout]:
        """See `Rollouts`."""
        adapter, seed = self._saved(actor, step), seed_of(self._seed, step)
        written = await sample(
            self._engine, self._policy, prompts, seed=seed, max_tokens=self._max_tokens, adapter=adapter
        )
        await self._forget(adapter)
        return written

    def _saved(self, actor: ActorCritic, step: int) -> Adapter:
        # Never a name that an engine may have cached by.
        name = f"ppo-{self._work.name}-{step}-{uuid.uuid4().hex[:8]}"
        place = self._work / name
        actor.policy.save_pretrained(place, selected_adapters=["default"], save_embedding_layers=False)
        number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) & 0x7FFFFFFF or 1
        return Adapter(name, number, str(place.absolute()))

    async def _forget(self, adapter: Adapter) -> None:
        """Free the adapter of the step before, which nobody writes with any more."""
        if self._adapter is not None:
            await self._engine.drop(self._adapter)
            shutil.rmtree(self._adapter.path, ignore_errors=True)
        self._adapter = adapter


class ModelRollouts:
    """The model itself, by transformers: for every weight, and where no engine takes adapters."""

    def __init__(self, tokenizer: PromptTokenizer, *, max_tokens: int, seed: int, at_once: int = 32) -> None:
        """`at_once`: responses written side by side; which ones are is a part of their seed."""
        self._tokenizer, self._max_tokens, self._seed, self._at_once = tokenizer, max_tokens, seed, at_once

    async def write(self, actor: ActorCritic, prompts: Sequence[AlignmentPrompt], step: int) -> list[Rollout]:
        """See `Rollouts`."""
        found = []
        for at in range(0, len(prompts), self._at_once):
            batch = prompts[at : at + self._at_once]
            asked = [prompt_ids_of(prompt, self._tokenizer) for prompt in batch]
            seed = seed_of(self._seed, step, *(prompt.prompt_id for prompt in batch))
            found += [
                rollout(prompt, ids, written, self._tokenizer)
                for prompt, ids, written in zip(batch, asked, self._sample(actor, asked, seed), strict=True)
            ]
        return found

    def _sample(self, actor: ActorCritic, asked: Sequence[tuple[int, ...]], seed: int) -> list[tuple[int, ...]]:
        device = next(actor.policy.parameters()).device
        sequences = Sequences.of(asked, [() for _ in asked])
        width, ends = max(map(len, asked)), list(self._tokenizer.eos_ids)
        with torch.no_grad(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            written = actor.policy.generate(
                input_ids=sequences.ids[:, :width].to(device),
                attention_mask=sequences.attention[:, :width].to(device),
                do_sample=True,
                temperature=1.0,
                top_p=1.0,
                top_k=0,
                max_new_tokens=self._max_tokens,
                eos_token_id=ends,
                pad_token_id=ends[0],
            )
        return [_until_the_end(row, set(ends)) for row in written[:, width:].tolist()]


def prompt_ids_of(prompt: AlignmentPrompt, tokenizer: PromptTokenizer) -> tuple[int, ...]:
    """The token ids that a policy reads."""
    return get_task(prompt.task).render(prompt.context, tokenizer, budget=PROMPT_BUDGET).token_ids


def rollout(
    prompt: AlignmentPrompt, prompt_ids: tuple[int, ...], written: Sequence[int], tokenizer: PromptTokenizer
) -> Rollout:
    """What was written for a prompt, read."""
    return Rollout(prompt, prompt_ids, read_response(written, get_task(prompt.task), tokenizer, n=prompt.context.n))


def _ids_of(completion: Completion) -> tuple[int, ...]:
    end = () if completion.stop_token_id is None else (completion.stop_token_id,)
    return (*completion.token_ids, *end)


def _until_the_end(ids: Sequence[int], ends: set[int]) -> tuple[int, ...]:
    for number, token_id in enumerate(ids):
        if token_id in ends:
            return tuple(ids[: number + 1])
    return tuple(ids)
