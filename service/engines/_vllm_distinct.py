"""A logits processor for vLLM that keeps lists from saying a query twice; `Sampling.distinct` asks for it.

vLLM's core imports it by name, in its own process. It is no engine.
"""

from typing import Any

import torch
from torch import Tensor
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from service.contract.engine import Distinct
from service.engines._distinct_argument import NAME, from_argument


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


def _row(params: SamplingParams, _: list[int] | None, written: list[int]) -> Any:
    if not params.extra_args or NAME not in params.extra_args:
        return None
    return *from_argument(params.extra_args[NAME]), written
