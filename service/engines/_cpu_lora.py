"""LoRA on a CPU in the place of vLLM 0.29's own operations: one product for each run of tokens with the same adapter.

vLLM's copy an adapter's weights for every token: a list of the starter policy with an adapter took 3 times the computing
of one without, and takes twice now. And for tokens without an adapter (index -1) they take the weights in the last slot,
which changes what the base writes once all slots are full. It is no engine.
"""

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from torch import Tensor, dtype
from vllm.lora.punica_wrapper import punica_cpu

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
    for slot, tokens in _slices(runs):
        if slot < 0:
            y[tokens] = 0
        else:
            y[tokens, : weights.shape[-2]] = scaling * _product(x[tokens], weights[slot], y.dtype)


def _expand(x: Tensor, weights: Tensor, y: Tensor, runs: _Runs, add_inputs: bool) -> None:
    for slot, tokens in _slices(runs):
        if slot < 0:
            continue
        product = _product(x[tokens], weights[slot], y.dtype)[:, : y.shape[1]]  # either may be padded
        if add_inputs:
            y[tokens, : product.shape[1]] += product
        else:
            y[tokens, : product.shape[1]] = product


def _product(x: Tensor, weights: Tensor, kind: dtype) -> Tensor:
    return x.to(kind) @ weights.view(weights.shape[-2:]).to(kind).T


def _slices(runs: _Runs) -> Iterator[tuple[int, slice]]:
    begin = 0
    for slot, count in runs:
        yield slot, slice(begin, begin + count)
        begin += count
