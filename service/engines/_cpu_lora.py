"""LoRA on a CPU in the place of vLLM 0.29's own operations: one product for each run of tokens with the same adapter.

vLLM's copy an adapter's weights for every token: a list of the starter policy with an adapter took 3 times the computing
of one without. And for tokens without an adapter (index -1) they take the weights in the last slot, which changes what the
base writes once all slots are full. Where a step has tokens of many adapters, one batched product of all slots takes the
place of many small ones. It is no engine.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from vllm.lora.punica_wrapper import punica_cpu

_FEW = 2  # products of so many slots are faster than a batched one of all, and what gathers and scatters for it
_SMALL = 16  # tokens of a slot; those of prompts are more, and the two kinds are padded apart
_PADDED = 2.0  # the most rows that a batched product of prompts may have, by those that are no padding
_MANY_TOKENS = 64  # so many are multiplied faster as the weights are than in float32, where those are of 16 bits

_Runs = tuple[tuple[int, int], ...]  # an adapter's slot, -1 for none, and how many tokens in a row have it


def install() -> None:
    """Put these operations into vLLM's CPU wrapper: all that its layers call."""
    wrapper = punica_cpu.PunicaWrapperCPU
    for operation in (add_lora_linear, add_lora_logits, add_lora_embedding):
        if not hasattr(wrapper, operation.__name__):
            raise ImportError(f"This vLLM has no {operation.__name__}. Compare _cpu_lora.py with its punica_cpu.py.")
        setattr(wrapper, operation.__name__, operation)


def add_lora_linear(
    self: Any,
    y: Tensor,
    x: Tensor,
    lora_a_stacked: Sequence[Tensor],
    lora_b_stacked: Sequence[Tensor],
    scale: float,
    output_slices: Sequence[int],
    **_: Any,
) -> None:
    """Each token's `x` (T, in) by the A (slots, 1, r, in) and B (slots, 1, out, r) of its adapter, added to `y` (T, sum out).

    There are an A, a B and a width for each of the layers that were merged into this one.
    """
    layers = list(zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True))
    _add(_runs_of(self), x, layers, y, scale)


def add_lora_logits(
    self: Any, y: Tensor, x: Tensor, lora_a_stacked: Tensor, lora_b_stacked: Tensor, scale: float, **_: Any
) -> None:
    """The same for the tokens that are sampled from; nothing for adapters of linear layers alone, whose A is 0 here."""
    if lora_a_stacked.any():
        _add(_of_tokens(self.sampler_indices), x, [(lora_a_stacked, lora_b_stacked, y.shape[-1])], y, scale)


def add_lora_embedding(self: Any, y: Tensor, x: Tensor, lora_b_stacked: Tensor, *_: Any, **__: Any) -> None:
    """`x` (T, r), each token's row of its adapter's A, by the B of its adapter, added to `y` (T, out)."""
    if x.any():
        _add(_runs_of(self), x, [(None, lora_b_stacked, y.shape[-1])], y, 1.0)


def _add(runs: _Runs, x: Tensor, layers: "_Layers", y: Tensor, scale: float) -> None:
    for piece in _planned(runs, layers[0][1].shape[0]):
        piece.add(x.view(-1, x.shape[-1]), layers, y.view(-1, y.shape[-1]), scale)


def _product(x: Tensor, weights: Tensor) -> Tensor:
    best = weights.dtype if len(x) >= _MANY_TOKENS else torch.float32
    return x.to(best) @ weights.to(best).T


def _runs_of(wrapper: Any) -> _Runs:
    if not wrapper.is_prefill:
        return _of_tokens(wrapper.token_lora_indices)
    _, lengths, indices, *_ = wrapper.prefill_metadata
    return _of_runs(indices, lengths)


def _of_tokens(indices: Tensor) -> _Runs:
    return tuple((slot, sum(1 for _ in same)) for slot, same in groupby(indices.tolist()))


def _of_runs(indices: Tensor, lengths: Tensor) -> _Runs:
    return tuple(zip(indices.tolist(), lengths.tolist(), strict=True))


_Layers = Sequence[tuple[Tensor | None, Tensor, int]]  # of all slots A, unless it was applied, and B; the width of `y`


@dataclass(frozen=True, slots=True)
class _OneSlot:
    """Tokens (T) of a step that have the same adapter."""

    slot: int
    tokens: Tensor | slice

    def add(self, x: Tensor, layers: _Layers, y: Tensor, scale: float) -> None:
        """Add to their rows of `y` what their rows of `x` give."""
        rows, begin = x[self.tokens], 0
        for a, b, width in layers:
            shrunk = rows if a is None else _product(rows, a[self.slot, 0])
            product = _product(shrunk, b[self.slot, 0])[:, :width]  # either may be padded
            _add_rows(y[:, begin : begin + product.shape[1]], self.tokens, product, scale)
            begin += width


@dataclass(frozen=True, slots=True)
class _AllSlots:
    """Tokens (T) of many adapters, and where they stand when those of each slot stand together, padded to the same length.

    `gather` (slots * length): a token for each place. `scatter` (T): a place for each of `tokens`.
    """

    tokens: Tensor | slice
    gather: Tensor
    scatter: Tensor

    def add(self, x: Tensor, layers: _Layers, y: Tensor, scale: float) -> None:
        """Add to their rows of `y` what their rows of `x` give."""
        kind, slots = layers[0][1].dtype, layers[0][1].shape[0]
        rows = x.index_select(0, self.gather).to(kind).view(slots, -1, x.shape[1])
        products = []
        for a, b, width in layers:
            shrunk = rows if a is None else torch.bmm(rows, a[:, 0].transpose(1, 2))
            products.append(torch.bmm(shrunk, b[:, 0].transpose(1, 2))[..., :width])  # either may be padded
        product = (torch.cat(products, -1) if len(products) > 1 else products[0]).flatten(0, 1)
        _add_rows(y[:, : product.shape[1]], self.tokens, product.index_select(0, self.scatter), scale)


def _add_rows(y: Tensor, tokens: Tensor | slice, product: Tensor, scale: float) -> None:
    if isinstance(tokens, slice):
        y[tokens].add_(product, alpha=scale)
    else:
        y.index_add_(0, tokens, product.to(y.dtype), alpha=scale)


@lru_cache(maxsize=64)  # all layers of a step ask for the same
def _planned(runs: _Runs, slots: int) -> list[_OneSlot | _AllSlots]:
    """How to multiply the tokens of a step that have an adapter."""
    tokens: dict[int, list[int]] = {}
    for slot, run in _slices(runs):
        if slot >= 0:
            tokens.setdefault(slot, []).extend(range(run.start, run.stop))
    small = {slot: mine for slot, mine in tokens.items() if len(mine) <= _SMALL}
    large = {slot: mine for slot, mine in tokens.items() if slot not in small}
    padded = slots * max(map(len, large.values()), default=0)
    may_pad = padded <= _PADDED * sum(map(len, large.values()))
    return [*_pieces(small, slots, True), *_pieces(large, slots, may_pad)]


def _pieces(tokens: Mapping[int, list[int]], slots: int, may_pad: bool) -> list[_OneSlot | _AllSlots]:
    if len(tokens) > _FEW and may_pad:
        return [_together(tokens, slots)]
    return [_OneSlot(slot, _as_slice(mine)) for slot, mine in tokens.items()]


def _as_slice(tokens: list[int]) -> Tensor | slice:
    first, last = tokens[0], tokens[-1]
    return slice(first, last + 1) if last - first + 1 == len(tokens) else torch.tensor(tokens)


def _together(tokens: Mapping[int, list[int]], slots: int) -> _AllSlots:
    length = max(map(len, tokens.values()))
    place = {token: slot * length + k for slot, mine in tokens.items() for k, token in enumerate(mine)}
    ordered, of_slots = sorted(place), [tokens.get(slot, []) for slot in range(slots)]
    padded = [token for mine in of_slots for token in (*mine, *[0] * (length - len(mine)))]
    return _AllSlots(_as_slice(ordered), torch.tensor(padded), torch.tensor([place[token] for token in ordered]))


def _slices(runs: Iterable[tuple[int, int]]) -> Iterator[tuple[int, slice]]:
    begin = 0
    for slot, count in runs:
        yield slot, slice(begin, begin + count)
        begin += count
