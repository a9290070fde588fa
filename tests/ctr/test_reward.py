"""List rewards are equations 3 and 4, exact, and the same when a list grows query by query."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctr.predictor import Reward, aec, list_reward

CLICKS = st.lists(st.floats(0.0, 1 - 1e-6), max_size=12)


def test_equation_3_by_hand():
    # 1 - .9 * .8 * .5 = .64
    assert list_reward([0.1, 0.2, 0.5], single_choice=False) == pytest.approx(0.64)


def test_equation_4_by_hand():
    assert list_reward([0.1, 0.2, 0.5], single_choice=True) == pytest.approx(0.8)


def test_small_probabilities_keep_their_digits():
    # 1 - (1 - p)^2 = 2p - p^2; computed by a product in float64 it would lose four digits.
    p = 1e-12

    assert list_reward([p, p], single_choice=False) == pytest.approx(2 * p - p * p, rel=1e-14)


def test_aec_is_the_mean_list_reward():
    # Lists worth 1 - .9 * .8 = .28 and .5: mean .39
    assert aec([[0.1, 0.2], [0.5]], single_choice=False) == pytest.approx(0.39)


@given(CLICKS, st.booleans())
def test_a_growing_list_has_the_reward_of_the_whole(p, single_choice):
    reward = Reward(single_choice)
    for each in p:
        reward = reward.plus(each)

    assert reward.value == pytest.approx(list_reward(p, single_choice), rel=1e-9, abs=1e-15)


@given(CLICKS)
def test_equation_3_is_one_less_the_product(p):
    assert list_reward(p, single_choice=False) == pytest.approx(1 - math.prod(1 - each for each in p), abs=1e-12)
