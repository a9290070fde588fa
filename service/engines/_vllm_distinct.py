"""A logits processor for vLLM that keeps lists from saying a query twice; `Sampling.distinct` asks for it.

vLLM's core imports it by name, in its own process. It is no engine.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from service.contract.engine import Distinct

_ARGUMENT = "distinct"


class DistinctPieces(LogitsProcessor):  # type: ignore[misc]
    """Rules out the end of a piece, and of the completion, where the piece so far is said already."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self._device = device
        self._rows: dict[int, tuple[Distinct, list[int], list[int]]] = {}

    def is_argmax_invariant(self) -> bool:
        """The likeliest token may be an end."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow the batch; vLLM keeps the lists of written tokens up to date."""
        process_dict_updates(self._rows, batch_update, _row)

    def apply(self, logits: Tensor) -> Tensor:
        """The logits, (B, V), changed in place."""
        ruled_out = [
            (row, token)
            for row, (distinct, ends, written) in self._rows.items()
            if distinct.repeats(written)
            for token in ends
        ]
        if ruled_out:
            rows, tokens = torch.tensor(ruled_out, device=self._device).unbind(1)
            logits[rows, tokens] = -torch.inf
        return logits


def arguments(distinct: Distinct, stops: Iterable[int]) -> dict[str, Any]:
    """`extra_args` of vLLM's SamplingParams."""
    return {_ARGUMENT: [distinct.separator_id, sorted(distinct.said), sorted(stops)]}


def _row(params: SamplingParams, _: list[int] | None, written: list[int]) -> Any:
    if not params.extra_args or _ARGUMENT not in params.extra_args:
        return None
    separator_id, said, stops = params.extra_args[_ARGUMENT]
    distinct = Distinct(separator_id=separator_id, said=frozenset(map(tuple, said)))
    return distinct, [separator_id, *stops], written
