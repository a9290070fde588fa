"""The loop of token-level PPO (TPPO 3.4): write, reward, look back, learn; step after step, on one process or many.

It knows no engine, no judge and no reward by name. Sentence-level PPO is the same loop under a source that pays at the end.
"""

import math
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from service.contract.errors import ArtifactError
from service.contract.progress import Report
from trainer.ppo import maths
from trainer.ppo.actor_critic import ActorCritic, Sequences, logprobs_of, of_tokens
from trainer.ppo.config import PpoConfig
from trainer.ppo.rollout import Rollout, Rollouts
from trainer.prompts import AlignmentPrompt
from trainer.rewards import RewardSource

_KEPT = 2  # checkpoints

Watch = Callable[[Sequence[Rollout]], dict[str, float]]


@dataclass(slots=True)
class _State:
    """What a checkpoint keeps beside weights and optimiser."""

    kl: maths.AdaptiveKl
    step: int = 0

    def state_dict(self) -> dict[str, Any]:
        return {"beta": self.kl.beta, "step": self.step}

    def load_state_dict(self, kept: dict[str, Any]) -> None:
        self.kl.beta, self.step = kept["beta"], kept["step"]


@dataclass(slots=True)
class _Clock:
    """Seconds of the parts of a step."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def at(self, part: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self.seconds[f"{part}_s"] = time.perf_counter() - begin


async def train(
    actor: ActorCritic,
    reference: Any,
    prompts: Sequence[AlignmentPrompt],
    rollouts: Rollouts,
    source: RewardSource,
    config: PpoConfig,
    work: Path,
    report: Report,
    *,
    accelerator: Accelerator | None = None,
    watch: Watch | None = None,
) -> None:
    """Train `actor` in place; a run that was killed goes on from the newest checkpoint in `work`, and ends alike.

    `reference`: the model that the divergence is from; None where it is the base without the actor's adapter. `watch`: what
    else to tell of the responses of each step, of the first process.

    Raises:
        ArtifactError: A loss is no finite number; the last checkpoint stays.
    """
    accelerator = accelerator or Accelerator()
    trained = [weight for weight in actor.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=config.learning_rate, betas=(0.9, 0.95), weight_decay=0.0)
    model, optimiser = accelerator.prepare(actor, optimiser)
    model.eval()  # no dropout: what is written and what is learnt from is one policy
    state = _State(maths.AdaptiveKl(config.beta, config.target_kl, config.horizon))
    accelerator.register_for_checkpointing(state)
    _resume(accelerator, work)
    while state.step < config.steps:
        began, clock = time.perf_counter(), _Clock()
        mine = _of_this_process(_prompts_of(prompts, state.step, config), accelerator)
        with clock.at("write"):
            written = await rollouts.write(accelerator.unwrap_model(model), mine, state.step)
        with clock.at("reward"):
            earned = source.earned(written)
        with clock.at("forward"):
            seen = _look_back(accelerator, model, reference, written, earned, state.kl.beta, config)
        with clock.at("learn"):
            learnt = _learn(accelerator, model, optimiser, seen, config, state.step)
        state.kl.follow(seen.figures["kl"], config.prompts)
        state.step += 1
        told = {}
        if watch is not None and accelerator.is_main_process:
            with clock.at("watch"):
                told = watch(written)
        figures = {**seen.figures, **told, **learnt, **clock.seconds, "step_s": time.perf_counter() - began}
        if accelerator.is_main_process:
            report(state.step / config.steps, {"step": state.step, "beta": state.kl.beta, **figures})
        if state.step % config.save_steps == 0 or state.step == config.steps:
            _save(accelerator, work, state.step)


@dataclass(frozen=True, slots=True)
class _Seen:
    """The responses of a step under the policy that wrote them, (B, T) each; figures are of all processes."""

    sequences: Sequences
    logprobs: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor
    figures: dict[str, float]


def _look_back(
    accelerator: Accelerator,
    model: Any,
    reference: Any,
    written: Sequence[Rollout],
    earned: Sequence[Sequence[float] | None],
    beta: float,
    config: PpoConfig,
) -> _Seen:
    """What the policy, the reference and the value head say of the responses, and what follows for each token.

    Log-probabilities are those of this model, not the engine's: its arithmetic is another, and a ratio of 1 must be 1.
    """
    sequences = Sequences.of([each.prompt_ids for each in written], [each.response.ids for each in written])
    sequences = _without_unjudged(sequences, earned).to(accelerator.device)
    actor = accelerator.unwrap_model(model)
    parts = [slice(at, at + config.batch_size) for at in range(0, len(written), config.batch_size)]
    looked = [_padded(_look(actor, reference, sequences.rows(part)), sequences) for part in parts]
    logprobs, values, entropy, from_reference = (torch.cat(each) for each in zip(*looked, strict=True))
    mask = sequences.mask
    paid = torch.zeros(mask.shape, device=mask.device)
    for row, each in enumerate(earned):
        if each:
            paid[row, : len(each)] = torch.tensor(each, dtype=torch.float32)
    kl = maths.kl_penalty(logprobs, from_reference, mask)
    rewards = maths.token_rewards(paid, kl, mask, beta=beta)
    gains, returns = maths.advantages(rewards, values, mask, discount=config.discount, decay=config.decay)
    total = _Totals(accelerator, mask)
    judged = [each is not None for each in earned]
    rows = max(1.0, total.of(torch.tensor(judged)))
    mean = total.of(gains) / total.tokens
    deviation = math.sqrt(max(0.0, total.of(gains.square()) / total.tokens - mean**2))
    unexplained = total.of(((returns - values) * mask).square()) / total.tokens
    spread = total.of((returns * mask).square()) / total.tokens - (total.of(returns * mask) / total.tokens) ** 2
    return _Seen(
        sequences,
        logprobs,
        values,
        maths.whitened(gains, mask, mean=mean, deviation=deviation),
        returns,
        {
            "reward": total.of(paid * mask) / rows,
            "kl": total.of(kl) / rows,
            "entropy": total.of(entropy * mask) / total.tokens,
            "length": total.tokens / rows,
            "failures": total.of(torch.tensor([float(each.response.problem is not None) for each in written]))
            / config.prompts,
            "unjudged": config.prompts - rows,
            "explained": 1.0 - unexplained / spread if spread > 0 else 0.0,
        },
    )


def _without_unjudged(sequences: Sequences, earned: Sequence[Sequence[float] | None]) -> Sequences:
    """The same with nothing to learn in responses of which nobody can say what they earn."""
    judged = torch.tensor([each is not None for each in earned])
    return replace(sequences, mask=sequences.mask & judged[:, None])


def _learn(
    accelerator: Accelerator, model: Any, optimiser: Any, seen: _Seen, config: PpoConfig, step: int
) -> dict[str, float]:
    """Some passes over the responses of a step, batch after batch; the loss of a token weighs the same wherever it is."""
    figures: Counter[str] = Counter()
    share = config.batch_size // accelerator.num_processes
    batches = [slice(at, at + share) for at in range(0, len(seen.logprobs), share)] * config.epochs
    for rows in batches:
        sequences = seen.sequences.rows(rows)
        width, mask = sequences.tokens.shape[1], sequences.mask
        everything, values = model(sequences)
        logprobs = of_tokens(everything, sequences.tokens)
        old, before, gains, returns = (
            each[rows, :width] for each in (seen.logprobs, seen.values, seen.advantages, seen.returns)
        )
        policy, clipped = maths.policy_loss(logprobs, old, gains, mask, clip=config.clip)
        value = maths.value_loss(values, before, returns, mask, clip=config.value_clip)
        total = _Totals(accelerator, mask)
        # Processes take the mean of their gradients: times their number it is the sum, over all tokens of the batch.
        loss = (policy + config.value_weight * value).sum() * accelerator.num_processes / total.tokens
        measured = {
            "policy_loss": total.of(policy) / total.tokens,
            "value_loss": total.of(value) / total.tokens,
            "clipped": total.of(clipped.float()) / total.tokens,
        }
        _refuse_unless_finite(measured, step)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_([w for w in model.parameters() if w.requires_grad], config.max_gradient)
        optimiser.step()
        optimiser.zero_grad()
        figures.update({name: number / len(batches) for name, number in measured.items()})
    return dict(figures)


class _Totals:
    """Sums over all processes. `tokens`: how many the mask says were written, at least 1."""

    def __init__(self, accelerator: Accelerator, mask: Tensor) -> None:
        self._accelerator = accelerator
        self.tokens = max(1.0, self.of(mask))

    def of(self, values: Tensor) -> float:
        mine = values.detach().double().sum().to(self._accelerator.device)
        return float(self._accelerator.reduce(mine, reduction="sum"))


def _look(actor: ActorCritic, reference: Any, sequences: Sequences) -> list[Tensor]:
    """Log-probabilities, values, entropies, and log-probabilities under the reference, (B, T) each, without gradients."""
    with torch.no_grad():
        everything, values = actor(sequences)
        entropy = -(everything.exp() * everything).sum(-1)
    known = actor.reference_logprobs(sequences) if reference is None else logprobs_of(reference, sequences)
    return [of_tokens(everything, sequences.tokens), values, entropy, known]


def _padded(found: Sequence[Tensor], sequences: Sequences) -> list[Tensor]:
    """As wide as all responses of the step."""
    width = sequences.tokens.shape[1]
    return [torch.nn.functional.pad(each, (0, width - each.shape[1])) for each in found]


def _prompts_of(prompts: Sequence[AlignmentPrompt], step: int, config: PpoConfig) -> list[AlignmentPrompt]:
    """The prompts of a step: all in an order that the seed decides, again in another one when they are through."""
    orders: dict[int, list[int]] = {}
    found = []
    for number in range(step * config.prompts, (step + 1) * config.prompts):
        epoch, place = divmod(number, len(prompts))
        if epoch not in orders:
            orders[epoch] = Random(f"{config.seed}:{epoch}").sample(range(len(prompts)), len(prompts))
        found.append(prompts[orders[epoch][place]])
    return _of_like_length(found, config, step)


def _of_like_length(prompts: list[AlignmentPrompt], config: PpoConfig, step: int) -> list[AlignmentPrompt]:
    """The same in batches of like length, so that little is padding; which batch comes when is drawn."""
    in_order = sorted(prompts, key=lambda prompt: len(repr(prompt.context)))
    batches = [in_order[at : at + config.batch_size] for at in range(0, len(in_order), config.batch_size)]
    Random(f"{config.seed}:{step}:batches").shuffle(batches)
    return [prompt for batch in batches for prompt in batch]


def _of_this_process(prompts: list[AlignmentPrompt], accelerator: Accelerator) -> list[AlignmentPrompt]:
    """Every k-th, so that each batch is shared evenly and is the same one whatever the number of processes."""
    return prompts[accelerator.process_index :: accelerator.num_processes]


def _refuse_unless_finite(measured: dict[str, float], step: int) -> None:
    for name, value in measured.items():
        if not math.isfinite(value):
            raise ArtifactError(
                f"{name} of step {step + 1} is {value}, so training stopped and nothing is published; the last checkpoint is "
                "as it was. Usually the learning rate is too high or a reward is no number: lower the one, look at the other."
            )


def _save(accelerator: Accelerator, work: Path, step: int) -> None:
    draft, place = work / f".step-{step:06d}", work / f"step-{step:06d}"
    accelerator.save_state(str(draft), safe_serialization=False)  # the other form warns of tied weights every time
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        shutil.rmtree(place, ignore_errors=True)
        draft.rename(place)
        for old in _checkpoints(work)[:-_KEPT]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()


def _resume(accelerator: Accelerator, work: Path) -> None:
    if found := _checkpoints(work):
        accelerator.load_state(str(found[-1]))


def _checkpoints(work: Path) -> list[Path]:
    return sorted(work.glob("step-*"))
