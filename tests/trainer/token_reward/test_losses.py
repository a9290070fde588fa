"""The losses of the token reward model against slow loops written from TPPO eq. 1 and 2."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.token_reward.losses import balanced, global_loss, local_loss

WEIGHTS = torch.tensor([0.5, 2.0, 1.0])


def _drawn(seed, rows=3, length=6):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, length, 3, generator=generator)
    classes = torch.randint(0, 3, (rows, length), generator=generator)
    valid = torch.rand(rows, length, generator=generator) < 0.7
    return logits, classes, valid, torch.rand(rows, generator=generator) < 0.5


def _probabilities(logits):
    exps = [math.exp(value) for value in logits.tolist()]
    return [value / sum(exps) for value in exps]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000))
def test_the_local_loss_is_equation_1(seed):
    logits, classes, valid, _ = _drawn(seed)

    found = local_loss(logits, classes, valid, weights=WEIGHTS)

    total = 0.0
    for row, t in valid.nonzero().tolist():
        kind = classes[row, t].item()
        total -= WEIGHTS[kind].item() * math.log(_probabilities(logits[row, t])[kind])
    assert found.item() == pytest.approx(total / len(logits), rel=1e-5)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000))
def test_the_global_loss_is_equation_2_over_words_with_expected_rewards(seed):
    logits, classes, valid, relevant = _drawn(seed)

    found = global_loss(logits, classes, valid, relevant=relevant)

    errors = []
    for row in range(len(logits)):
        words = [t for t in range(logits.shape[1]) if valid[row, t] and classes[row, t] > 0]
        expected = [sum(c * p for c, p in enumerate(_probabilities(logits[row, t]))) for t in words]
        wanted = 2.0 if relevant[row] else 1.0
        errors.append((sum(expected) / len(words) - wanted) ** 2 if words else 0.0)
    assert found.item() == pytest.approx(sum(errors) / len(errors), rel=1e-5, abs=1e-7)


def test_what_is_not_valid_changes_no_loss_and_gets_no_gradient():
    logits, classes, valid, relevant = _drawn(3)
    logits[~valid], classes[~valid] = float("nan"), -7
    logits.requires_grad_()

    loss = local_loss(logits, classes, valid, weights=WEIGHTS) + global_loss(logits, classes, valid, relevant=relevant)
    loss.backward()

    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad[valid]).all()


def test_the_global_loss_has_a_gradient():
    logits, classes, valid, relevant = _drawn(4)
    logits.requires_grad_()

    global_loss(logits, classes, valid, relevant=relevant).backward()

    assert logits.grad.abs().sum() > 0.01


def test_the_frequent_class_is_thinned_to_three_times_the_other_and_class_0_stays():
    classes = torch.tensor([[0] * 50 + [1] * 100 + [2] * 2000])
    mask = torch.ones_like(classes, dtype=torch.bool)

    valid = balanced(classes, mask, most=3.0, generator=torch.Generator().manual_seed(1))

    kept = [int((valid & (classes == kind)).sum()) for kind in range(3)]
    assert kept[:2] == [50, 100]
    assert 240 <= kept[2] <= 360  # 300 expected, with a deviation of 16


@pytest.mark.parametrize("words", [[1, 2, 2, 2], [1, 1, 1], [2]])
def test_what_is_balanced_or_cannot_be_stays_whole(words):
    classes = torch.tensor([[*words, 0]])
    mask = torch.tensor([[True] * len(words) + [False]])

    assert torch.equal(balanced(classes, mask, most=3.0, generator=torch.Generator()), mask)
