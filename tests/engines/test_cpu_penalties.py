"""Penalties on a CPU are those that vLLM takes."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("vllm")

from service.engines import _cpu_penalties as ours  # noqa: E402


@pytest.mark.parametrize("repetition", [1.0, 1.3])
def test_penalties_are_those_of_vllm(repetition):
    torch.manual_seed(5)
    logits, prompt = torch.randn(4, 50), torch.randint(0, 50, (4, 6))
    presence, frequency = torch.tensor([2.0, 0.0, -0.5, 1.0]), torch.tensor([0.2, 0.7, 0.0, -1.0])
    written = [[3, 3, 7, 49], [0], [], [1, 2, 1, -1]]
    arguments = (prompt, presence, frequency, torch.full((4,), repetition), written)

    found = ours.apply_all_penalties(logits.clone(), *arguments)

    assert torch.allclose(found, ours._of_vllm(logits.clone(), *arguments), atol=1e-6)
    assert not torch.equal(found, logits)


def test_nothing_written_is_nothing_taken():
    logits = torch.randn(2, 50)

    found = ours.apply_all_penalties(logits.clone(), torch.zeros(2, 1).long(), *[torch.ones(2)] * 3, [[], []])

    assert torch.equal(found, logits)


def test_vllm_still_has_what_is_replaced():
    from vllm.v1.sample import sampler

    assert callable(sampler.apply_all_penalties)
