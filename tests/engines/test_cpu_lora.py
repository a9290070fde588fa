"""Adapters on a CPU: every token gets its own adapter's product, however the tokens of a step are mixed."""

from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("vllm")

from service.engines import _cpu_lora  # noqa: E402

SLOTS, RANK, WIDE, OUT = 5, 4, 32, (24, 12)
STEPS = {
    "one": [(0, 6)],
    "two": [(1, 3), (4, 3)],
    "mixed": [(0, 1), (3, 1), (0, 1), (1, 1), (3, 1), (2, 1), (4, 2), (0, 1)],
    "mixed with none": [(-1, 1), (2, 1), (-1, 1), (0, 1), (2, 1), (-1, 2), (4, 1)],
    "none": [(-1, 5)],
    "none and one in turn": [(-1, 1), (3, 1)] * 3,
    "a token": [(2, 1)],
    "prompts": [(3, 9), (-1, 30), (0, 70), (1, 10)],
    "prompts alike": [(3, 30), (0, 25), (1, 30), (0, 5), (2, 30), (-1, 2), (4, 29)],
    "prompts and tokens": [(3, 1), (-1, 9), (0, 1), (1, 80), (1, 1), (4, 1), (-1, 1)],
}


def weights(*shape: int) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def wrapper(runs: list[tuple[int, int]], *, is_prefill: bool) -> Any:
    """As vLLM tells its operations whose the tokens are."""
    slots, lengths = (torch.tensor(each) for each in zip(*runs, strict=True))
    return SimpleNamespace(
        is_prefill=is_prefill,
        no_lora=bool((slots < 0).all()),
        token_lora_indices=slots.repeat_interleave(lengths),
        prefill_metadata=(None, lengths, slots, len(runs), 0, 0),
    )


def wanted(x: Any, stacked: Any, slots: list[int]) -> Any:
    """A product a token."""
    none = torch.zeros(stacked.shape[-2])
    return torch.stack([stacked[slot, 0] @ row if slot >= 0 else none for slot, row in zip(slots, x, strict=True)])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("is_prefill", [True, False], ids=["prompts", "tokens"])
@pytest.mark.parametrize("runs", STEPS.values(), ids=STEPS)
def test_each_token_gets_its_own_adapter(runs: list[tuple[int, int]], is_prefill: bool, precision: str) -> None:
    kind, slots = getattr(torch, precision), [slot for slot, count in runs for _ in range(count)]
    x, before = weights(len(slots), WIDE).to(kind), weights(len(slots), sum(OUT) + 7).to(kind)
    a = [weights(SLOTS, 1, RANK, WIDE).to(kind), 0.5 * weights(SLOTS, 1, RANK, WIDE).to(kind)]
    b = [weights(SLOTS, 1, out, RANK).to(kind) for out in OUT]
    y = before.clone()

    _cpu_lora.add_lora_linear(wrapper(runs, is_prefill=is_prefill), y, x, a, b, 2.0, OUT)

    added = [2.0 * wanted(wanted(x.float(), p.float(), slots), q.float(), slots) for p, q in zip(a, b, strict=True)]
    expected = before.float() + torch.nn.functional.pad(torch.cat(added, dim=1), (0, 7))
    near = {"rtol": 1e-4, "atol": 1e-4} if precision == "float32" else {"rtol": 0.02, "atol": 0.02 * expected.std()}
    torch.testing.assert_close(y.float(), expected, **near)
    without = torch.tensor(slots) < 0
    assert torch.equal(y[without], before[without])


@pytest.mark.parametrize("runs", STEPS.values(), ids=STEPS)
def test_logits_get_the_same(runs: list[tuple[int, int]]) -> None:
    slots = [slot for slot, count in runs for _ in range(count)]
    x, a, b = weights(len(slots), WIDE), weights(SLOTS, 1, RANK, WIDE), weights(SLOTS, 1, OUT[0] + 3, RANK)
    y, told = torch.ones(len(slots), OUT[0]), SimpleNamespace(sampler_indices=torch.tensor(slots))

    _cpu_lora.add_lora_logits(told, y, x, a, b, 0.5)
    first = y.clone()
    _cpu_lora.add_lora_logits(told, y, x, torch.zeros_like(a), b, 0.5)  # an adapter of linear layers alone

    expected = 1 + 0.5 * wanted(wanted(x, a, slots), b, slots)[:, : OUT[0]]
    torch.testing.assert_close(first, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(y, first)


@pytest.mark.parametrize("runs", STEPS.values(), ids=STEPS)
def test_embeddings_get_the_same(runs: list[tuple[int, int]]) -> None:
    slots = [slot for slot, count in runs for _ in range(count)]
    x, b, y = weights(len(slots), RANK), weights(SLOTS, 1, OUT[0], RANK), torch.ones(len(slots), OUT[0])

    _cpu_lora.add_lora_embedding(wrapper(runs, is_prefill=True), y, x, b, add_inputs=True)

    torch.testing.assert_close(y, 1 + wanted(x, b, slots), rtol=1e-4, atol=1e-4)
