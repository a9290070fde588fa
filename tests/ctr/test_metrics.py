"""Metrics worked out by hand, and compared with slow obvious versions on random input."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctr.metrics import (
    auc,
    diff_ctr,
    ece,
    gauc,
    logloss,
    measure,
    normalised_entropy,
    pair_accuracy,
    reliability,
)

LABELS = [1, 0, 0, 1]
P = [0.8, 0.6, 0.2, 0.4]


def slow_auc(labels: Any, p: Any) -> float | None:
    clicked = [score for y, score in zip(labels, p, strict=True) if y]
    others = [score for y, score in zip(labels, p, strict=True) if not y]
    right = [1.0 if a > b else 0.5 if a == b else 0.0 for a in clicked for b in others]
    return sum(right) / len(right) if right else None


def slow_gauc(labels: Any, p: Any, groups: Any) -> float | None:
    total = weight = 0.0
    for group in set(groups):
        rows = [i for i, each in enumerate(groups) if each == group]
        found = slow_auc([labels[i] for i in rows], [p[i] for i in rows])
        if found is not None:
            total, weight = total + len(rows) * found, weight + len(rows)
    return total / weight if weight else None


def slow_pairs(labels: Any, p: Any, lists: Any) -> float | None:
    right = [
        1.0 if p[i] > p[j] else 0.5 if p[i] == p[j] else 0.0
        for i in range(len(p))
        for j in range(len(p))
        if lists[i] == lists[j] and labels[i] and not labels[j]
    ]
    return sum(right) / len(right) if right else None


def test_auc_by_hand():
    # Pairs (clicked, not): .8 over .6 and .2, .4 over .2 but not .6: three of four.
    assert auc(LABELS, P) == pytest.approx(0.75)


def test_gauc_and_pair_accuracy_by_hand():
    # Group a has .8 over .6: 1. Group b has .4 over .2 but not .6: 1/2. Group c has no click and does not count.
    labels, p, groups = [1, 0, 1, 0, 0, 0], [0.8, 0.6, 0.4, 0.2, 0.6, 0.9], list("aabbbc")

    assert gauc(labels, p, groups) == pytest.approx((2 * 1 + 3 * 0.5) / 5)
    assert pair_accuracy(labels, p, groups) == pytest.approx(2 / 3)


def test_logloss_is_equation_5():
    # -[log .8 + log(1 - .6) + log(1 - .2) + log .4] / 4
    expected = -(math.log(0.8) + math.log(0.4) + math.log(0.8) + math.log(0.4)) / 4

    assert logloss(LABELS, P) == pytest.approx(expected)


def test_normalised_entropy_is_1_for_the_click_rate():
    # Half are clicks, so always saying one half loses log 2.
    assert normalised_entropy(LABELS, [0.5] * 4) == pytest.approx(1.0)
    assert normalised_entropy(LABELS, P) == pytest.approx(logloss(LABELS, P) / math.log(2))


def test_pcoc_is_predicted_clicks_over_clicks():
    assert measure(LABELS, P, LABELS, LABELS).pcoc == pytest.approx((0.8 + 0.6 + 0.2 + 0.4) / 2)


def test_ece_by_hand():
    # Two bins of two: {.2, .4} predicts .3 and has .5; {.6, .8} predicts .7 and has .5.
    assert ece(LABELS, P, bins=2) == pytest.approx((2 * 0.2 + 2 * 0.2) / 4)
    assert [rows for *_, rows in reliability(LABELS, P, bins=2)] == [2, 2]


def test_equal_probabilities_share_a_bin():
    # One bin holds all: predicted .5, real .5.
    assert ece([0, 0, 1, 1], [0.5] * 4) == 0.0


def test_diff_ctr_is_equation_9():
    # Means are .2 and .1, so predictions halve to .05 and .15; |.05 - .08| and |.15 - .12| are .03 each.
    assert diff_ctr([0.1, 0.3], [0.08, 0.12]) == pytest.approx(0.03)


def test_diff_ctr_forgives_a_constant_factor():
    real = [0.02, 0.03, 0.05]

    assert diff_ctr([3 * p for p in real], real) == pytest.approx(0.0)


def test_what_is_not_defined_is_none():
    no_click = measure([0, 0], [0.1, 0.2], [1, 1], [1, 1])
    only_clicks = measure([1, 1], [0.1, 0.2], [1, 1], [1, 1])

    assert (no_click.auc, no_click.gauc, no_click.pair_accuracy, no_click.pcoc) == (None, None, None, None)
    assert (only_clicks.auc, only_clicks.normalised_entropy) == (None, None)
    assert no_click.logloss is not None


ROWS = st.lists(
    st.tuples(st.booleans(), st.sampled_from([0.1, 0.2, 0.3, 0.5, 0.9]), st.integers(0, 3)), min_size=2, max_size=40
)


@given(ROWS)
@settings(max_examples=200, deadline=None)
def test_ranks_give_what_counting_pairs_gives(rows):
    labels, p, groups = (list(each) for each in zip(*rows, strict=True))
    labels = [int(y) for y in labels]

    assert auc(labels, p) == pytest.approx(slow_auc(labels, p))
    assert gauc(labels, p, groups) == pytest.approx(slow_gauc(labels, p, groups))
    assert pair_accuracy(labels, p, groups) == pytest.approx(slow_pairs(labels, p, groups))


def test_calibrated_probabilities_have_a_small_error():
    random = np.random.default_rng(0)
    p = random.uniform(0.02, 0.3, 200_000)

    # Of 15 bins with n = 13,333 rows each, the mean error is about sqrt(2 / pi) * sqrt(.16 * .84 / n) = .0025.
    assert ece(random.random(200_000) < p, p) < 0.005
