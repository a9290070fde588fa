"""Muon, an optimizer of weight matrices: momentum whose singular values are all made one (Jordan and others, 2024).

It knows nothing about models. torch.optim.Muon does the same in bfloat16, one matrix after the other; most CPUs
multiply that four times slower than float32, so this one keeps float32 there and takes matrices of one shape together.
"""

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, distributed

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration, as published
_RMS = 0.2  # of an update, as large as AdamW's usually is, so both take the same learning rate


class Muon(torch.optim.Optimizer):  # type: ignore[misc]
    """For parameters of two dimensions; `lr` is that of AdamW, `momentum` is Nesterov's."""

    def __init__(
        self, matrices: Iterable[Tensor], lr: float, *, weight_decay: float = 0.0, momentum: float = 0.95
    ) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def step(self, closure: Any = None) -> None:
        """One update of every matrix that has a gradient; a closure is not called."""
        for group in self.param_groups:
            by_shape: dict[tuple[int, ...], list[Tensor]] = {}
            for matrix in group["params"]:
                if matrix.grad is not None:
                    by_shape.setdefault(tuple(matrix.shape), []).append(matrix)
            for shape, matrices in by_shape.items():
                directions = _together(torch.stack([self._direction(m, group["momentum"]) for m in matrices]))
                torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(matrices, directions.unbind(), alpha=-group["lr"] * _RMS * max(shape) ** 0.5)

    def _direction(self, matrix: Tensor, momentum: float) -> Tensor:
        state = self.state[matrix]
        if not state:
            state["momentum"] = torch.zeros_like(matrix)
        gradient = cast(Tensor, matrix.grad)  # `step` has looked
        state["momentum"].lerp_(gradient, 1 - momentum)
        return gradient.lerp(state["momentum"], momentum)


def _together(matrices: Tensor) -> Tensor:
    """`orthogonalized`; the processes of a distributed run, which all hold the same, do a share each."""
    if not distributed.is_initialized():
        return orthogonalized(matrices)
    shares = matrices.tensor_split(distributed.get_world_size())
    found = [torch.zeros_like(share) for share in shares]
    found[distributed.get_rank()] = orthogonalized(shares[distributed.get_rank()])
    whole = torch.cat(found)
    distributed.all_reduce(whole)  # each share is zero everywhere but in its own process
    return whole


def orthogonalized(matrices: Tensor, steps: int = 5) -> Tensor:
    """(K, M, N) with singular values near 1, by a Newton-Schulz iteration; singular vectors stay as they are."""
    wide = matrices.mT if matrices.shape[-2] > matrices.shape[-1] else matrices
    x = wide / (wide.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    a, b, c = _COEFFICIENTS
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if wide is not matrices else x
