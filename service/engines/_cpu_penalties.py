"""Penalties on a CPU in the place of vLLM 0.29's own: a list's own tokens are looked at, not the whole vocabulary.

vLLM's count every token of the vocabulary anew for every list and step (decision 0013). It is no engine.
"""

from itertools import chain

import torch
from torch import Tensor
from vllm.v1.sample import sampler

_of_vllm = sampler.apply_all_penalties


def install() -> None:
    """Put this into vLLM's sampler, which looks it up by name at every call."""
    sampler.apply_all_penalties = apply_all_penalties


def apply_all_penalties(
    logits: Tensor,
    prompt_token_ids: Tensor,
    presence_penalties: Tensor,
    frequency_penalties: Tensor,
    repetition_penalties: Tensor,
    output_token_ids: list[list[int]],
) -> Tensor:
    """The logits, (B, V), changed in place; penalties are (B,). Repetition penalties stay with vLLM."""
    if bool((repetition_penalties != 1.0).any()):
        return _of_vllm(
            logits, prompt_token_ids, presence_penalties, frequency_penalties, repetition_penalties, output_token_ids
        )
    vocabulary = logits.shape[-1]
    lengths = torch.tensor([len(written) for written in output_token_ids])
    rows = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    tokens = torch.tensor(list(chain.from_iterable(output_token_ids)), dtype=torch.int64)
    known = tokens >= 0  # vLLM puts -1 where a token is not known yet
    places, times = (rows[known] * vocabulary + tokens[known]).unique(return_counts=True)
    rows = places // vocabulary
    logits[rows, places % vocabulary] -= presence_penalties[rows] + frequency_penalties[rows] * times
    return logits
