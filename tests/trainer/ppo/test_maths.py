"""The arithmetic of PPO against slow loops written from the papers, and against closed forms."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.ppo import maths

CASES = given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 7))
quick = settings(deadline=None, max_examples=40)


def _drawn(seed, rows, length):
    """Random rewards, values and lengths, with the mask of the lengths."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, length + 1, (rows,), generator=generator)
    mask = torch.arange(length)[None] < lengths[:, None]
    return [torch.randn(rows, length, generator=generator, dtype=torch.float64) for _ in range(4)], mask


def _garbage(tensor, mask):
    return torch.where(mask, tensor, torch.full_like(tensor, float("nan")))


@quick
@CASES
def test_advantages_are_the_sum_over_later_errors(seed, rows, length):
    (rewards, values, *_), mask = _drawn(seed, rows, length)

    found, returns = maths.advantages(rewards, values, mask, discount=0.9, decay=0.8)

    for row in range(rows):
        n = int(mask[row].sum())
        v = [*values[row, :n].tolist(), 0.0]
        errors = [rewards[row, t].item() + 0.9 * v[t + 1] - v[t] for t in range(n)]
        for t in range(length):
            expected = sum((0.9 * 0.8) ** (k - t) * errors[k] for k in range(t, n)) if t < n else 0.0
            assert found[row, t].item() == pytest.approx(expected, abs=1e-9)
            if t < n:
                assert returns[row, t].item() == pytest.approx(expected + v[t], abs=1e-9)


@quick
@CASES
def test_with_all_of_the_decay_an_advantage_is_what_comes_less_the_value(seed, rows, length):
    (rewards, values, *_), mask = _drawn(seed, rows, length)

    found, _ = maths.advantages(rewards, values, mask, discount=1.0, decay=1.0)

    to_come = (rewards * mask).flip(1).cumsum(1).flip(1)
    assert torch.allclose(found, (to_come - values) * mask)


@quick
@CASES
def test_without_decay_an_advantage_is_one_step(seed, rows, length):
    (rewards, values, *_), mask = _drawn(seed, rows, length)

    found, returns = maths.advantages(rewards, values, mask, discount=0.95, decay=0.0)

    following = torch.cat([(values * mask)[:, 1:], torch.zeros(rows, 1, dtype=values.dtype)], dim=1)
    assert torch.allclose(found, (rewards + 0.95 * following - values) * mask)
    assert torch.allclose(returns[mask], (rewards + 0.95 * following)[mask])


@quick
@CASES
def test_what_padding_holds_changes_nothing(seed, rows, length):
    tensors, mask = _drawn(seed, rows, length)
    spoiled = [_garbage(tensor, mask) for tensor in tensors]

    def everything(one, two, three, four):
        found, returns = maths.advantages(one, two, mask, discount=0.9, decay=0.7)
        loss, clipped = maths.policy_loss(one, two, found, mask, clip=0.2)
        return (
            found,
            loss,
            clipped,
            torch.where(mask, returns, 0.0),
            maths.value_loss(three, four, torch.where(mask, returns, 0.0), mask, clip=0.2),
            maths.token_rewards(one, maths.kl_penalty(three, four, mask), mask, beta=0.1),
        )

    for clean, dirty in zip(everything(*tensors), everything(*spoiled), strict=True):
        assert torch.equal(clean, dirty)


@quick
@CASES
def test_the_loss_of_a_token_is_the_clipped_objective_of_equation_6(seed, rows, length):
    (logprobs, old, gains, _), mask = _drawn(seed, rows, length)

    loss, clipped = maths.policy_loss(logprobs, old, gains, mask, clip=0.2)

    for row, t in mask.nonzero().tolist():
        ratio = math.exp(logprobs[row, t].item() - old[row, t].item())
        gain = gains[row, t].item()
        objective = min(ratio * gain, min(max(ratio, 0.8), 1.2) * gain)
        assert loss[row, t].item() == pytest.approx(-objective)
        assert clipped[row, t].item() == (objective < ratio * gain - 1e-12)
    assert not loss[~mask].any()


def test_at_the_first_step_the_ratio_is_one_and_the_divergence_none():
    (logprobs, _, gains, _), mask = _drawn(1, 3, 5)

    loss, clipped = maths.policy_loss(logprobs, logprobs, gains, mask, clip=0.2)

    assert torch.equal(loss, -gains * mask)
    assert not clipped.any()
    assert not maths.kl_penalty(logprobs, logprobs, mask).any()


def test_a_ratio_past_all_bounds_is_no_infinity():
    far, near, gain, mask = (
        torch.tensor([[0.0]]),
        torch.tensor([[-1e4]]),
        torch.tensor([[-1.0]]),
        torch.tensor([[True]]),
    )

    loss, _ = maths.policy_loss(far, near, gain, mask, clip=0.2)

    assert loss.item() == pytest.approx(math.exp(20.0), rel=1e-5)


@quick
@CASES
def test_the_loss_of_values_is_the_larger_of_two_errors(seed, rows, length):
    (values, old, returns, _), mask = _drawn(seed, rows, length)

    loss = maths.value_loss(values, old, returns, mask, clip=0.3)

    for row, t in mask.nonzero().tolist():
        v, o, r = (each[row, t].item() for each in (values, old, returns))
        bound = o + min(max(v - o, -0.3), 0.3)
        assert loss[row, t].item() == pytest.approx(0.5 * max((v - r) ** 2, (bound - r) ** 2))


# Eq. 4 by hand, s_l = 10: at 10 the exponent is -6; alpha 1 reaches half at 16, alpha .5 at 22, and e.g. 13 -> 1/(1+e^-3).
@pytest.mark.parametrize(
    ("alpha", "place", "weight"),
    [(1.0, 10, 0.99753), (1.0, 16, 0.5), (0.5, 22, 0.5), (1.0, 13, 0.95257), (1.0, 22, 0.00247)],
)
def test_the_penalty_is_equation_4(alpha, place, weight):
    found = maths.length_weighted_penalty(torch.tensor([float(place)]), suggested_length=10, alpha=alpha)

    assert found.item() == pytest.approx(weight, abs=1e-5)


def test_published_rewards_are_the_class_times_the_penalty():
    classes = torch.tensor([[2, 1, 0, 2]])
    probabilities = torch.nn.functional.one_hot(classes, 3).double()

    found = maths.class_rewards(probabilities, values="published", suggested_length=3, alpha=1.0)

    weights = [1 / (1 + math.exp((place - 3) - 6)) for place in (1, 2, 3, 4)]
    assert found[0].tolist() == pytest.approx([2 * weights[0], weights[1], 0.0, 2 * weights[3]])


def test_centred_rewards_are_over_the_suggested_length_and_late_bad_tokens_are_not_forgiven():
    classes = torch.tensor([[2, 1, 0, 1, 2] + [0] * 20 + [1, 2]])
    probabilities = torch.nn.functional.one_hot(classes, 3).double()

    found = maths.class_rewards(probabilities, values="centred", suggested_length=4, alpha=1.0)[0]

    assert found[[1, 3, 25]].tolist() == pytest.approx([-0.25] * 3)  # the last of them at place 26, far past 4
    assert found[0].item() == pytest.approx(0.25, abs=2e-4)
    assert 0 < found[26].item() < 1e-6
    assert not found[[2, *range(5, 25)]].any()


def test_an_unsure_class_earns_what_it_is_expected_to():
    probabilities = torch.tensor([[[0.2, 0.3, 0.5]]], dtype=torch.float64)

    published, centred = (
        maths.class_rewards(probabilities, values=values, suggested_length=2, alpha=None).item()
        for values in ("published", "centred")
    )

    assert published == pytest.approx(0.3 + 2 * 0.5)
    assert centred == pytest.approx((0.5 - 0.3) / 2)


def test_beta_follows_the_divergence_and_never_by_more_than_a_fifth_of_the_share():
    far, near, fixed = (
        maths.AdaptiveKl(0.1, 4.0, 1_000),
        maths.AdaptiveKl(0.1, 4.0, 1_000),
        maths.AdaptiveKl(0.1, 4.0, None),
    )

    far.follow(400.0, 100)
    near.follow(3.8, 100)
    fixed.follow(400.0, 100)

    assert far.beta == pytest.approx(0.1 * (1 + 0.2 * 0.1))
    assert near.beta == pytest.approx(0.1 * (1 - 0.05 * 0.1))
    assert fixed.beta == 0.1
