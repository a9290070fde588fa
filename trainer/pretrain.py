"""Trains the base model, from scratch or from an earlier one: language, and the prompt format of every task.

It knows nothing about SFT or serving. Examples are composed as they are needed, so nothing but the seed is stored.
Under `torchrun` every process takes its share of each step.
"""

import math
import os
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from service.contract.hardware import computes_in_bfloat16
from service.contract.progress import reporter
from service.contract.tokenizer import PromptTokenizer
from trainer.batches import batches, padded
from trainer.catalogue.example import Example
from trainer.tokenizer import VOCABULARY

_STATE = "state.pt"


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainConfig:
    """How the base model is made. `prompt_weight`: weight of a prompt token's loss, a response token's being 1.

    `start`: directory of an earlier base to go on from, whose shape and tokenizer then hold; None begins from scratch.
    `tokens_per_step` counts one process; under `torchrun` each takes as many. Training ends
    after `total_tokens` or `max_minutes`, whichever comes first; the learning rate follows both.
    """

    start: Path | None = None
    hidden_size: int = 256
    layers: int = 6
    heads: int = 4
    kv_heads: int = 2
    intermediate_size: int = 704
    total_tokens: int = 40_000_000
    max_minutes: float = math.inf
    tokens_per_step: int = 2048
    learning_rate: float = 3e-3
    warmup_share: float = 0.03
    weight_decay: float = 0.05
    prompt_weight: float = 0.1
    seed: int = 1
    save_every_s: float = 240.0
    compile: bool = True


def pretrain(
    tokenizer: PromptTokenizer,
    work: Path,
    config: PretrainConfig,
    *,
    real: Sequence[Example] = (),
    max_steps: float = math.inf,
    quiet: bool = False,
) -> Any:
    """Train, or go on from the newest state in `work`; returns the transformers model. Metrics go to `metrics.jsonl`.

    `max_steps`: stop there for now, as an interruption would; the learning rate does not follow it.
    """
    import torch

    rank, world = _join()
    device = f"cuda:{rank}" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(config.seed)
    model = (_earlier_model(config.start) if config.start else new_model(tokenizer, config)).to(device)
    optimizers = _optimizers(model, config)
    state = _load_state(work, model, optimizers, device)
    step_loss = torch.compile(weighted_loss, dynamic=True) if config.compile else weighted_loss
    in_bfloat16 = "cuda" in device or computes_in_bfloat16()
    precision = torch.autocast(torch.device(device).type, torch.bfloat16) if in_bfloat16 else nullcontext()
    report, saved_at = reporter(work / "metrics.jsonl", quiet=quiet or rank > 0), time.monotonic()

    stream = batches(tokenizer, seed=config.seed, tokens=config.tokens_per_step, start=state["position"], real=real)
    marked_at = time.monotonic()
    while (done := _done(state, config)) < 1.0 and state["step"] < max_steps:
        together = list(islice(stream, world))  # every process composes all of them, and takes its own
        learning_rate = config.learning_rate * _schedule(done, config.warmup_share)
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = learning_rate
        ids, weights = (tensor.to(device) for tensor in padded(together[rank][1], config.prompt_weight))
        with precision:
            loss = step_loss(model, ids, weights)
        loss.backward()
        step_s, marked_at = torch.tensor(time.monotonic() - marked_at, device=device), time.monotonic()
        _average([*(p.grad for p in model.parameters()), loss.data, step_s], world)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        tokens = sum(len(row) for _, rows in together for row in rows)
        state = _advanced(state, together[-1][0], tokens, float(step_s), loss.item())
        report(
            done,
            {
                "step": state["step"],
                "tokens": state["tokens"],
                "loss": round(state["loss"], 4),
                "grad_norm": round(float(norm), 3),
                "lr": learning_rate,
                "tokens_per_s": round(tokens / float(step_s)),
            },
        )
        if rank == 0 and time.monotonic() - saved_at > config.save_every_s:
            _save_state(work, model, optimizers, state)
            saved_at = time.monotonic()
    report(_done(state, config), {"step": state["step"], "tokens": state["tokens"], "loss": round(state["loss"], 4)})
    if rank == 0:
        _save_state(work, model, optimizers, state)
    return model


def new_model(tokenizer: PromptTokenizer, config: PretrainConfig) -> Any:
    """A Llama with random weights. Heads are 64 wide, since vLLM on CPU takes no 16."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads,
            head_dim=64,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            pad_token_id=0,
            bos_token_id=tokenizer.start_ids[0],
            eos_token_id=tokenizer.eos_ids[0],
        )
    )


def _earlier_model(directory: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)


def weighted_loss(model: Any, ids: Any, weights: Any) -> Any:
    """Weighted mean cross-entropy of the next token. Padding stands at the end, so causal attention never sees it."""
    from torch.nn.functional import cross_entropy

    logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    each = cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    targets = weights[:, 1:].flatten()
    return (each * targets).sum() / targets.sum()


def _join() -> tuple[int, int]:
    """The rank of this process and how many there are, under `torchrun`; alone otherwise."""
    import torch
    from torch import distributed

    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1 and not distributed.is_initialized():
        distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return (distributed.get_rank(), world) if world > 1 else (0, 1)


def _average(tensors: list[Any], world: int) -> None:
    """Replace each tensor by its mean over all processes, in one exchange."""
    import torch
    from torch import distributed

    if world == 1:
        return
    flat = torch.cat([tensor.float().flatten() for tensor in tensors])
    distributed.all_reduce(flat)
    for tensor, mean in zip(tensors, flat.div_(world).split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(mean.view_as(tensor))


def _done(state: dict[str, Any], config: PretrainConfig) -> float:
    return float(max(state["tokens"] / config.total_tokens, state["elapsed_s"] / 60 / config.max_minutes))


def _advanced(
    state: dict[str, Any], position: tuple[int, int], tokens: int, step_s: float, loss: float
) -> dict[str, Any]:
    return {
        "position": position,
        "tokens": state["tokens"] + tokens,
        "step": state["step"] + 1,
        "elapsed_s": state["elapsed_s"] + step_s,
        "loss": 0.98 * (state["loss"] or loss) + 0.02 * loss,
    }


def _optimizers(model: Any, config: PretrainConfig) -> list[Any]:
    """Muon for the weight matrices of the layers; AdamW for the embeddings, whose rows learn at different times."""
    import torch

    from trainer.muon import Muon

    embedding = model.get_input_embeddings().weight  # the output's too
    matrices = [p for p in model.parameters() if p.ndim >= 2 and p is not embedding]
    gains = [p for p in model.parameters() if p.ndim < 2]
    adamw = torch.optim.AdamW(
        [embedding, *gains], lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True
    )
    return [Muon(matrices, config.learning_rate, weight_decay=config.weight_decay), adamw]


def _schedule(done: float, warmup_share: float) -> float:
    """Linear warm-up, then cosine down to 5 %."""
    if done < warmup_share:
        return max(done / warmup_share, 0.02)
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (done - warmup_share) / (1 - warmup_share)))


def _save_state(work: Path, model: Any, optimizers: Sequence[Any], state: dict[str, Any]) -> None:
    """Write everything that resuming needs; the old state stays until the new one is whole."""
    import torch

    work.mkdir(parents=True, exist_ok=True)
    draft = work / f".{_STATE}.draft"
    saved = {"model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers], "state": state}
    torch.save(saved, draft)
    draft.replace(work / _STATE)


def _load_state(work: Path, model: Any, optimizers: Sequence[Any], device: str) -> dict[str, Any]:
    import torch

    path = work / _STATE
    if not path.is_file():
        return {"position": (0, -1), "tokens": 0, "step": 0, "elapsed_s": 0.0, "loss": 0.0}
    saved = torch.load(path, map_location=device, weights_only=True)
    model.load_state_dict(saved["model"])
    for optimizer, its_state in zip(optimizers, saved["optimizers"], strict=True):
        optimizer.load_state_dict(its_state)
    return dict(saved["state"])


def describe(config: PretrainConfig) -> dict[str, Any]:
    """The configuration as plain values, for the manifest; without what says nothing elsewhere: time limit and path."""
    return {key: value for key, value in asdict(config).items() if key not in ("max_minutes", "start")}
