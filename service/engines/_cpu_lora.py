"""LoRA on a CPU in the place of vLLM 0.29's own operations: one product for each run of tokens with the same adapter.

vLLM's copy an adapter's weights for every token: a list of the starter policy with an adapter took 3 times the computing
of one without, and takes twice now. And for tokens without an adapter (index -1) they take the weights in the last slot,
which changes what the base writes once all slots are full. Where the tokens of many adapters are mixed, as in a step of
many requests, one batched product of all slots takes the place of many small ones. It is no engine.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, dtype
from vllm.lora.punica_wrapper import punica_cpu

_FEW_RUNS = 2  # so many products are faster than a batched one of all slots, and what gathers and scatters for it
_LONG_RUN = 8  # tokens; a longer one, as a prompt is, is multiplied by itself

_Runs = list[tuple[int, int]]  # an adapter's slot, -1 for none, and how many tokens in a row have it


def install() -> None:
    """Put these operations into vLLM's CPU wrapper, which looks them up by name at every call."""
    for operation in (bgmv_shrink, bgmv_expand, bgmv_expand_slice, sgmv_shrink, sgmv_expand, sgmv_expand_slice):
        if not hasattr(punica_cpu, operation.__name__):
            raise ImportError(f"This vLLM has no {operation.__name__}. Compare _cpu_lora.py with its torch_ops.")
        setattr(punica_cpu, operation.__name__, operation)


def bgmv_shrink(x: Tensor, weights: Tensor, y: Tensor, indices: Tensor, scaling: float = 1.0) -> None:
    """`y` (T, r) becomes `scaling` times `x` (T, in) by each token's A, (slots, 1, r, in); 0 without an adapter."""
    _shrink(x, weights, y, _of_tokens(indices), scaling)


def sgmv_shrink(x: Tensor, weights: Tensor, y: Tensor, _: Any, lengths: Tensor, indices: Tensor, *rest: Any) -> None:
    """The same for prompts: `indices` and `lengths` of the runs; `rest` ends with `scaling`."""
    _shrink(x, weights, y, _of_runs(indices, lengths), rest[-1])


def bgmv_expand(x: Tensor, weights: Tensor, y: Tensor, indices: Tensor, add_inputs: bool = True) -> None:
    """`x` (T, r) by each token's B, (slots, 1, out, r), is added to `y` (T, out)."""
    _expand(x, weights, y[:, : weights.shape[-2]], _of_tokens(indices), add_inputs)


def sgmv_expand(x: Tensor, weights: Tensor, y: Tensor, _: Any, lengths: Tensor, indices: Tensor, *rest: Any) -> None:
    """The same for prompts; `rest` ends with `add_inputs`."""
    _expand(x, weights, y[:, : weights.shape[-2]], _of_runs(indices, lengths), rest[-1])


def bgmv_expand_slice(
    x: Tensor, weights: Tensor, y: Tensor, indices: Tensor, offset: int, size: int, add_inputs: bool = True
) -> None:
    """The same into `size` columns of `y` from `offset` on."""
    _expand(x, weights, y[:, offset : offset + size], _of_tokens(indices), add_inputs)


def sgmv_expand_slice(
    x: Tensor, weights: Tensor, y: Tensor, _: Any, lengths: Tensor, indices: Tensor, *rest: Any
) -> None:
    """The same for prompts; `rest` ends with `offset`, `size` and `add_inputs`."""
    offset, size, add_inputs = rest[-3:]
    _expand(x, weights, y[:, offset : offset + size], _of_runs(indices, lengths), add_inputs)


def _of_tokens(indices: Tensor) -> _Runs:
    return [(slot, sum(1 for _ in same)) for slot, same in groupby(indices.tolist())]


def _of_runs(indices: Tensor, lengths: Tensor) -> _Runs:
    return list(zip(indices.tolist(), lengths.tolist(), strict=True))


def _shrink(x: Tensor, weights: Tensor, y: Tensor, runs: _Runs, scaling: float) -> None:
    rank, step = weights.shape[-2], _step(weights, runs, y.dtype)
    for slot, tokens in step.runs:
        if slot < 0:
            y[tokens] = 0
        else:
            y[tokens, :rank] = scaling * _product(x[tokens], weights[slot], y.dtype)
    if step.mixed:
        y[:, :rank].index_copy_(0, step.mixed.tokens, step.mixed.product(x, weights).mul_(scaling))


def _expand(x: Tensor, weights: Tensor, y: Tensor, runs: _Runs, add_inputs: bool) -> None:
    width = min(weights.shape[-2], y.shape[1])  # either may be padded
    step = _step(weights, runs, y.dtype, is_added=add_inputs)
    for slot, tokens in step.runs:
        if slot < 0:
            continue
        product = _product(x[tokens], weights[slot], y.dtype)[:, :width]
        if add_inputs:
            y[tokens, :width] += product
        else:
            y[tokens, :width] = product
    if step.mixed:
        y[:, :width].index_add_(0, step.mixed.tokens, step.mixed.product(x, weights)[:, :width])


def _product(x: Tensor, weights: Tensor, kind: dtype) -> Tensor:
    return x.to(kind) @ weights.view(weights.shape[-2:]).to(kind).T


@dataclass(frozen=True, slots=True)
class _Mixed:
    """Tokens of many adapters, and where they stand when those of each slot stand together, padded to the same length.

    `tokens` (T): which these are. `gather` (slots * length): a token for each place. `scatter` (T): a place for each of
    `tokens`. `without` (T, 1): True for those that have no adapter, None where all have one.
    """

    tokens: Tensor
    gather: Tensor
    scatter: Tensor
    without: Tensor | None

    def product(self, x: Tensor, weights: Tensor) -> Tensor:
        """Of these tokens of `x` with their weights, (slots, 1, out, in): (T, out), 0 without an adapter."""
        slots, _, _, wide = weights.shape
        grouped = x[:, :wide].index_select(0, self.gather).to(weights.dtype).view(slots, -1, wide)
        found = torch.bmm(grouped, weights[:, 0].transpose(1, 2)).flatten(0, 1).index_select(0, self.scatter)
        return found if self.without is None else found.masked_fill_(self.without, 0)


@dataclass(frozen=True, slots=True)
class _Step:
    """The tokens of a step: runs that are multiplied one by one, and all others at once."""

    runs: list[tuple[int, slice]]
    mixed: _Mixed | None = None


def _step(weights: Tensor, runs: _Runs, kind: dtype, *, is_added: bool = True) -> _Step:
    """Many short runs are mixed, unless weights would have to be converted, of which a run needs one adapter's."""
    may_mix = weights.dtype == kind and is_added
    return _planned(tuple(runs), weights.shape[0], may_mix)


@lru_cache(maxsize=64)  # all layers of a step ask for the same
def _planned(runs: tuple[tuple[int, int], ...], slots: int, may_mix: bool) -> _Step:
    placed = list(_slices(runs))
    short = [(slot, tokens) for slot, tokens in placed if tokens.stop - tokens.start <= _LONG_RUN]
    if not may_mix or len(short) <= _FEW_RUNS:
        return _Step(placed)
    return _Step([each for each in placed if each not in short], _together(short, slots))


def _together(short: list[tuple[int, slice]], slots: int) -> _Mixed:
    tokens = [token for _, run in short for token in range(run.start, run.stop)]
    slot_of = [slot for slot, run in short for _ in range(run.start, run.stop)]
    of_slot: list[list[int]] = [[] for _ in range(slots)]
    for token, slot in zip(tokens, slot_of, strict=True):
        if slot >= 0:
            of_slot[slot].append(token)
    length = max(1, *map(len, of_slot))
    place = {token: slot * length + k for slot, mine in enumerate(of_slot) for k, token in enumerate(mine)}
    without = torch.tensor([slot < 0 for slot in slot_of]).unsqueeze(1)
    return _Mixed(
        tokens=torch.tensor(tokens),
        gather=torch.tensor([each for mine in of_slot for each in (*mine, *[0] * (length - len(mine)))]),
        scatter=torch.tensor([place.get(token, 0) for token in tokens]),
        without=without if bool(without.any()) else None,
    )


def _slices(runs: Iterable[tuple[int, int]]) -> Iterator[tuple[int, slice]]:
    begin = 0
    for slot, count in runs:
        yield slot, slice(begin, begin + count)
        begin += count
