"""Estimates: rates with cluster intervals, lifts, power, sample ratios and off-policy values, against slow obvious ones."""

from math import exp, log, sqrt

import numpy as np
import pytest

from service.experiments import estimate
from service.experiments.estimate import Rates, lift, order_weights, power, sample_ratio_p, snips, times_more


def _people(rng, units, days=14, clusters=200, effect=0.0):
    """Sums of lists and clicked lists by arm and cluster, (2, B): people differ, and come several times."""
    arm, cluster = rng.integers(0, 2, units), rng.integers(0, clusters, units)
    lists = rng.poisson(0.5 * days, units)
    clicked = rng.binomial(lists, rng.beta(2, 8, units) * (1 + effect * arm))
    top, bottom = np.zeros((2, clusters)), np.zeros((2, clusters))
    np.add.at(bottom, (arm, cluster), lists)
    np.add.at(top, (arm, cluster), clicked)
    return top, bottom


def test_a_rate_is_the_ratio_of_sums():
    rates = Rates.of(np.array([[1.0, 2.0], [0.0, 3.0]]), np.array([[4.0, 6.0], [5.0, 5.0]]))

    assert rates.value.tolist() == [0.3, 0.3]


def test_the_covariance_is_that_of_a_bootstrap_over_clusters():
    rng = np.random.default_rng(3)
    top, bottom = _people(rng, 2_000)
    drawn = rng.integers(0, top.shape[1], (4_000, top.shape[1]))

    rates = Rates.of(top, bottom)

    values = np.array([top[:, each].sum(1) / bottom[:, each].sum(1) for each in drawn])
    assert np.allclose(rates.covariance, np.cov(values.T), rtol=0.1, atol=0.1 * rates.covariance[0, 0])


def test_people_who_come_often_make_the_interval_wider_than_lists_alone_would():
    top, bottom = _people(np.random.default_rng(4), 3_000)
    rates = Rates.of(top, bottom)
    p, lists = rates.value[0], bottom[0].sum()

    assert rates.covariance[0, 0] > 1.3 * p * (1 - p) / lists


def test_a_lift_is_relative_and_inside_its_intervals():
    top, bottom = _people(np.random.default_rng(5), 6_000, effect=0.2)

    found = lift(Rates.of(top, bottom), top.sum(1), 1, planned=0.1)

    assert found.value == pytest.approx(top[1].sum() / bottom[1].sum() / (top[0].sum() / bottom[0].sum()) - 1)
    assert found.always_low < found.low < found.value < found.high < found.always_high
    assert found.low < 0.2 < found.high


def test_few_clicks_have_no_lift():
    top, bottom = np.array([[3.0, 4.0], [5.0, 6.0]]), np.array([[9.0, 9.0], [9.0, 9.0]])

    assert lift(Rates.of(top, bottom), top.sum(1), 1, planned=0.1) is None
    assert lift(Rates.of(np.zeros((2, 5)), np.zeros((2, 5))), np.zeros(2), 1, planned=0.1) is None


def test_the_always_valid_width_is_that_of_the_mixture():
    # By hand: v = .0001, t = log(1.1) = .0953102, t^2 = .00908403, v + t^2 = .00918403;
    # sqrt(.0001 * .00918403 / .00908403 * log(.00918403 / (.0001 * .0025))) = sqrt(.000101101 * 10.51146) = .0325993.
    assert estimate.always_valid_half_width(0.0001, 0.1) == pytest.approx(0.0325993, abs=1e-6)
    v, t2 = 0.0001, log(1.1) ** 2
    z = estimate.always_valid_half_width(v, 0.1)
    # At the end of the interval the mixture's likelihood ratio is 1 / level (Johari et al., eq. 7).
    assert sqrt(v / (v + t2)) * exp(t2 * z**2 / (2 * v * (v + t2))) == pytest.approx(20)


def test_looking_every_day_does_not_find_what_is_not_there():
    rng = np.random.default_rng(6)
    found = 0
    for _ in range(100):
        top, bottom = np.zeros((2, 100)), np.zeros((2, 100))
        alarmed = False
        for _ in range(20):
            more = _people(rng, 300, days=2, clusters=100)
            top, bottom = top + more[0], bottom + more[1]
            now = lift(Rates.of(top, bottom), top.sum(1), 1, planned=0.1)
            alarmed |= now is not None and not now.always_low <= 0 <= now.always_high
        found += alarmed

    assert found <= 5


def test_power_at_a_known_point():
    # The log ratio is 2.8016 standard errors away: 1.95996 + .84162, so that power is .8.
    variance = (log(1.1) / (1.959964 + 0.841621)) ** 2

    assert power(variance, 0.1) == pytest.approx(0.8, abs=1e-4)
    assert times_more(variance, 0.1) == pytest.approx(1.0, abs=1e-5)
    assert times_more(4 * variance, 0.1) == pytest.approx(4.0, abs=1e-5)


def test_a_sample_ratio_of_51_to_49_is_caught_at_100_000_units():
    halves = np.array([0.5, 0.5])

    assert sample_ratio_p(np.array([51_000.0, 49_000.0]), halves) < estimate.SRM_LEVEL
    assert sample_ratio_p(np.array([50_100.0, 49_900.0]), halves) > 0.5
    assert sample_ratio_p(np.array([90_000.0, 10_000.0]), np.array([0.9, 0.1])) == pytest.approx(1.0)


def test_snips_finds_what_the_other_order_would_come_to():
    rng = np.random.default_rng(7)
    lists, explored = 40_000, 0.5
    length = np.full(lists, 3)
    is_best = rng.random(lists) < 1 - explored + explored / 6
    clicked = rng.random(lists) < np.where(is_best, 0.3, 0.2)

    found = snips(clicked.astype(float), order_weights(is_best, length, explored, 0.0), rng.integers(0, 1_000, lists))
    as_served = snips(clicked.astype(float), order_weights(is_best, length, explored, explored), np.arange(lists))

    assert found.low < 0.3 < found.high
    assert found.effective_lists == pytest.approx(is_best.sum())
    assert as_served.value == pytest.approx(clicked.mean())
    assert as_served.effective_lists == pytest.approx(lists)


def test_weights_of_orders_by_hand():
    # Three queries, half of the orders drawn: the best is shown with 1 - .5 + .5 / 6 = 7 / 12, each other with 1 / 12.
    # Of a tenth: .9 + .1 / 6 = 11 / 12, and 1 / 60. So 11 / 7, and 12 / 60.
    found = order_weights(np.array([True, False]), np.array([3, 3]), 0.5, 0.1)

    assert found.tolist() == pytest.approx([11 / 7, 0.2])


def test_an_order_that_was_never_drawn_has_no_weight():
    assert order_weights(np.array([False]), np.array([3]), 0.0, 0.5).tolist() == [0.0]
    assert snips(np.array([1.0, 0.0]), np.zeros(2), np.array([0, 1])) is None
