"""Sampling on a CPU: the distribution is that of top-p as it is defined, and a row does not depend on those beside it."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("vllm")

from service.engines import _cpu_sampler as ours  # noqa: E402

DRAWS = 40_000
TOLERANCE = 0.012  # four standard deviations of a share near a half


def top_p_by_definition(probabilities: list[float], p: float) -> list[float]:
    """The smallest set of likeliest tokens whose sum reaches p, made to sum to 1; token by token."""
    kept, total = [0.0] * len(probabilities), 0.0
    for token in sorted(range(len(probabilities)), key=lambda each: -probabilities[each]):
        if kept.count(0.0) < len(kept) and total >= p:
            break
        kept[token] = probabilities[token]
        total += probabilities[token]
    return [each / total for each in kept]


def shares(row: list[float], p: float | None) -> list[float]:
    torch.manual_seed(7)
    rows = torch.tensor(row).repeat(DRAWS, 1)
    tokens = ours.sample(rows, {}, None if p is None else torch.full((DRAWS,), p))
    return (torch.bincount(tokens, minlength=len(row)) / DRAWS).tolist()


@pytest.mark.parametrize("likeliest", [128, 2])  # 2: rows whose two likeliest do not reach p are sorted
@pytest.mark.parametrize("p", [0.3, 0.55, 0.9, 1.0, None])
def test_tokens_come_as_often_as_top_p_says(monkeypatch, likeliest, p):
    monkeypatch.setattr(ours, "_LIKELIEST", likeliest)
    row = [0.05, 0.4, 0.0, 0.25, 0.2, 0.1]

    found = shares(row, p)

    assert found == pytest.approx(top_p_by_definition(row, 1.0 if p is None else p), abs=TOLERANCE)
    assert found[2] == 0.0  # what is impossible never comes


def test_a_seed_gives_the_same_token_whatever_rows_are_beside_it():
    torch.manual_seed(3)
    rows, p = torch.randn(6, 4096).softmax(-1), torch.tensor([0.95, 0.5, 1.0, 0.95, 0.1, 0.95])
    rows[3] = torch.full((4096,), 1 / 4096)  # no few tokens hold .95 of it

    together = ours.sample(rows, {row: torch.Generator().manual_seed(row) for row in range(6)}, p)

    alone = [ours.sample(rows[i : i + 1], {0: torch.Generator().manual_seed(i)}, p[i : i + 1]).item() for i in range(6)]
    assert together.tolist() == alone


def test_one_likely_token_is_always_taken():
    assert shares([0.0, 1.0, 0.0], 0.95) == [0.0, 1.0, 0.0]


def test_vllm_still_has_what_is_replaced():
    from vllm.v1.sample.ops.topk_topp_sampler import TopKTopPSampler

    before = TopKTopPSampler.forward_cpu
    try:
        ours.install()
        assert TopKTopPSampler.forward_cpu is ours.forward_cpu
    finally:
        TopKTopPSampler.forward_cpu = before
