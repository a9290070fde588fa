"""Adapters on a CPU: every token gets its own adapter's product, however the tokens of a step are mixed."""

from importlib.util import find_spec

import pytest
import torch
from torch import Tensor

if find_spec("vllm") is None:
    pytest.skip("vllm is not installed", allow_module_level=True)

from service.engines import _cpu_lora

SLOTS, RANK, WIDE, OUT = 5, 4, 32, 24
MIXES = {
    "one": [0] * 6,
    "two runs": [1] * 3 + [4] * 3,
    "mixed": [0, 3, 0, 1, 3, 2, 4, 4, 0],
    "mixed with none": [-1, 2, -1, 0, 2, -1, 4],
    "none": [-1] * 5,
    "none and one in turn": [-1, 3, -1, 3, -1, 3],
    "a token": [2],
}


def weights(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def wanted(x: Tensor, each: Tensor, slots: list[int]) -> Tensor:
    """A product a token."""
    none = torch.zeros(each.shape[-2])
    return torch.stack([each[slot, 0] @ row if slot >= 0 else none for slot, row in zip(slots, x, strict=True)])


@pytest.mark.parametrize("slots", MIXES.values(), ids=MIXES)
def test_shrink_gives_each_token_its_own_adapter(slots: list[int]) -> None:
    x, a = weights(len(slots), WIDE), weights(SLOTS, 1, RANK, WIDE)
    y = torch.full((len(slots), RANK), 7.0)

    _cpu_lora.bgmv_shrink(x, a, y, torch.tensor(slots), 2.0)

    torch.testing.assert_close(y, 2.0 * wanted(x, a, slots))


@pytest.mark.parametrize("slots", MIXES.values(), ids=MIXES)
def test_expand_adds_into_its_columns_alone(slots: list[int]) -> None:
    x, b = weights(len(slots), RANK), weights(SLOTS, 1, OUT, RANK)
    before = weights(len(slots), OUT + 10)
    y = before.clone()

    _cpu_lora.bgmv_expand_slice(x, b, y, torch.tensor(slots), 6, OUT)

    torch.testing.assert_close(y[:, 6 : 6 + OUT], before[:, 6 : 6 + OUT] + wanted(x, b, slots))
    torch.testing.assert_close(y[:, :6], before[:, :6])
    torch.testing.assert_close(y[:, 6 + OUT :], before[:, 6 + OUT :])


@pytest.mark.parametrize(
    "lengths", [[1, 1, 1, 1, 1], [9, 1, 30, 2, 9], [1, 30, 1, 1, 2]], ids=["tokens", "prompts", "both"]
)
def test_prompts_get_the_same_as_their_tokens(lengths: list[int]) -> None:
    runs = [3, -1, 0, 3, 1]
    slots = [slot for slot, count in zip(runs, lengths, strict=True) for _ in range(count)]
    x, a = weights(len(slots), WIDE), weights(SLOTS, 1, RANK, WIDE)
    y = torch.full((len(slots), RANK), 7.0)

    _cpu_lora.sgmv_shrink(x, a, y, None, torch.tensor(lengths), torch.tensor(runs), 0, 0, 0, 0.5)

    torch.testing.assert_close(y, 0.5 * wanted(x, a, slots))


def test_weights_of_another_precision_are_converted() -> None:
    slots = MIXES["mixed"]
    x, a = weights(len(slots), WIDE), weights(SLOTS, 1, RANK, WIDE).bfloat16()
    y = torch.zeros(len(slots), RANK)

    _cpu_lora.bgmv_shrink(x, a, y, torch.tensor(slots))

    torch.testing.assert_close(y, wanted(x, a.float(), slots))
