"""Assignment: frozen by golden vectors, even, and one experiment tells nothing about another."""

from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import chi2_contingency, chisquare

from service.experiments.assignment import SLOTS, arm_of, ends_of, is_held_out, slot_of
from service.experiments.definitions import Arm, Experiment, Holdout

# By hand: int(sha256(salt + NUL + unit), 16) % 10000, as `printf 'salt\0unit' | sha256sum` shows it.
GOLDEN = {
    ("dpo-1", "u-1"): 9916,
    ("dpo-1", "u-2"): 6249,
    ("dpo-2", "u-1"): 2965,
    ("", ""): 8157,
    ("salt with spaces", "~!@#"): 7291,
}


def _experiment(share=1.0, weights=(0.5, 0.5), **more):
    arms = [Arm(name=f"arm-{i}", weight=weight) for i, weight in enumerate(weights)]
    return Experiment(id="dpo-1", share=share, arms=arms, **more)


@pytest.mark.parametrize(("salt", "unit"), GOLDEN)
def test_the_slot_of_a_unit_never_changes(salt, unit):
    assert slot_of(salt, unit) == GOLDEN[salt, unit]


def test_salt_and_unit_are_kept_apart():
    assert slot_of("ab", "c") != slot_of("a", "bc")


def test_ranges_follow_the_weights():
    assert ends_of(1.0, [0.5, 0.5]) == [5_000, 10_000]
    assert ends_of(0.1, [0.2, 0.8]) == [200, 1_000]


def test_what_is_over_after_rounding_goes_to_those_who_lost_most():
    # 100 slots: 33.3 each, one slot is over; all lost the same, so that the first gets it.
    assert ends_of(0.01, [1 / 3, 1 / 3, 1 / 3]) == [34, 67, 100]
    # 10 slots: 1.5, 2.5, 6: one is over, and the first two lost half a slot each.
    assert ends_of(0.001, [0.15, 0.25, 0.6]) == [2, 4, 10]


@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.1, 0.9), (0.3, 0.3, 0.4), (0.125,) * 8])
@pytest.mark.parametrize("share", [1.0, 0.33, 0.0001])
def test_ranges_fill_the_share_without_a_gap(share, weights):
    ends = [0, *ends_of(share, weights)]

    assert ends[-1] == round(share * SLOTS)
    assert all(one <= other for one, other in pairwise(ends))


def test_units_outside_the_share_take_no_part():
    experiment = _experiment(share=0.2)

    arms = [arm_of(experiment, f"u-{i}") for i in range(20_000)]

    assert 0.19 < sum(arm is not None for arm in arms) / 20_000 < 0.21


def test_units_are_spread_evenly():
    for salt in range(5):
        slots = [slot_of(f"salt-{salt}", f"u-{i}") // 100 for i in range(50_000)]

        assert chisquare(np.bincount(slots, minlength=100)).pvalue > 0.001


def test_two_experiments_are_independent():
    counts = np.zeros((2, 2))
    for i in range(50_000):
        counts[slot_of("one", f"u-{i}") < 5_000, slot_of("other", f"u-{i}") < 5_000] += 1

    assert chi2_contingency(counts).pvalue > 0.001


def test_the_holdout_has_its_own_salt():
    holdout = Holdout(share=0.1)
    held = [f"u-{i}" for i in range(20_000) if is_held_out(holdout, f"u-{i}")]

    assert 0.09 < len(held) / 20_000 < 0.11
    assert 0.4 < np.mean([arm_of(_experiment(), unit).name == "arm-0" for unit in held]) < 0.6
