"""Sampling on a CPU in the place of vLLM 0.29's own: the same distribution, without sorting the vocabulary.

vLLM's sorts every row for top-p, and draws one random number a token, twice where a request has a seed: more than a third of a
step of the starter policy. Here the likeliest tokens are found, and one number a row picks among them (decision 0013). A seed
gives other lists than vLLM's own sampler does. It is no engine.
"""

from typing import Any

import torch
from torch import Tensor
from vllm.v1.sample.ops.topk_topp_sampler import TopKTopPSampler

_LIKELIEST = 128  # of a row; where they do not hold all of top-p, the row is sorted
_Generators = dict[int, torch.Generator]
_of_vllm = TopKTopPSampler.forward_cpu


def install() -> None:
    """Put this into vLLM's sampler, which binds it when an engine is built."""
    TopKTopPSampler.forward_cpu = forward_cpu


def forward_cpu(
    sampler: Any, logits: Tensor, generators: _Generators, k: Tensor | None, p: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """A token for each row of `logits`, (B, V) -> (B,). Top-k, and log-probs of what is left, stay with vLLM."""
    if k is not None or sampler.logprobs_mode.startswith("processed") or sampler.use_fp64_gumbel:
        return _of_vllm(sampler, logits, generators, k, p)  # type: ignore[no-any-return]
    return sample(logits.softmax(-1, dtype=torch.float32), generators, p), None


def sample(probabilities: Tensor, generators: _Generators, p: Tensor | None) -> Tensor:
    """One token a row, (B, V) -> (B,): of the likeliest whose sum reaches p, (B,), in proportion to their probability.

    A row's token depends on its own probabilities and generator only, whatever rows are beside it.
    """
    rows, vocabulary = probabilities.shape
    numbers = torch.rand(rows)
    for row, generator in generators.items():
        numbers[row] = torch.rand((), generator=generator)
    if p is None:
        return _pick(probabilities, numbers)
    likely, tokens = probabilities.topk(min(_LIKELIEST, vocabulary), dim=-1)
    picked = tokens.gather(1, _pick(_within(likely, p), numbers)[:, None])[:, 0]
    everything, wide = p >= 1.0, likely.sum(-1) < p
    if bool(everything.any()):
        picked[everything] = _pick(probabilities[everything], numbers[everything])
    if bool((wide := wide & ~everything).any()):
        in_order, tokens = probabilities[wide].sort(dim=-1, descending=True)
        places = _pick(_within(in_order, p[wide]), numbers[wide])
        picked[wide] = tokens.gather(1, places[:, None])[:, 0]
    return picked


def _within(in_order: Tensor, p: Tensor) -> Tensor:
    """Probabilities from the largest on, (B, K), with 0 for those after the sum has reached p, (B,)."""
    outside = in_order.cumsum(-1) - in_order >= p[:, None]
    outside[:, 0] = False  # the likeliest stays, whatever p is
    return in_order.masked_fill(outside, 0.0)


def _pick(weights: Tensor, numbers: Tensor) -> Tensor:
    """The place in each row, (B, K) -> (B,), at which the running sum of weights passes that share, (B,), of their sum."""
    sums = weights.cumsum(-1)
    places = torch.searchsorted(sums, (numbers * sums[:, -1])[:, None], right=True)[:, 0]
    last = weights.shape[-1] - 1 - weights.flip(-1).ne(0).int().argmax(-1)  # where rounding would go past it
    return torch.minimum(places, last)
