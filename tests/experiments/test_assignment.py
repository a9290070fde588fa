"""Assignment: frozen by golden vectors, even, and one experiment tells nothing about another."""

from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import chi2_contingency, chisquare

from service.experiments.assignment import SLOTS, Assigner, Assignment, arms_in, ends_of, slot_of
from service.experiments.definitions import Arm, Experiment, Experiments, Holdout

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


def _assign(experiments, user, task="suggest", **more):
    units = {"user": user, "session": None, "request": "r-1", **more}
    return Assigner(experiments).assign(task, units)


def test_the_control_is_in_the_first_slots_and_each_arm_changes_what_it_says():
    arms = [Arm(name="control", weight=0.5), Arm(name="warm", weight=0.5, temperature=0.9)]
    experiments = Experiments(experiments=[Experiment(id="dpo-1", arms=arms)])

    # dpo-1 with u-2 is in slot 6249, with u-3 in slot 3432: by hand, as above.
    assert _assign(experiments, "u-2") == Assignment("dpo-1=warm", {"temperature": 0.9})
    assert _assign(experiments, "u-3") == Assignment("dpo-1=control", {})


def test_units_outside_the_share_take_no_part():
    assigner = Assigner(Experiments(experiments=[_experiment(share=0.2)]))

    arms = [assigner.assign("suggest", {"user": f"u-{i}"}).arm for i in range(20_000)]

    assert 0.79 < arms.count("control") / 20_000 < 0.81


def test_a_request_without_the_unit_and_one_of_another_task_take_no_part():
    assert _assign(Experiments(experiments=[_experiment()]), None) == Assignment()
    assert _assign(Experiments(experiments=[_experiment(tasks=["hint"])]), "u-1") == Assignment()
    assert _assign(Experiments(experiments=[_experiment(unit="request")]), None) != Assignment()


def test_several_experiments_are_logged_side_by_side():
    one = _experiment()
    other = Experiment(
        id="other", unit="session", arms=[Arm(name="a", weight=0.5), Arm(name="b", weight=0.5, cor=False)]
    )

    found = _assign(Experiments(experiments=[one, other]), "u-1", session="s-1")

    assert [name for name, _ in arms_in(found.arm)] == ["dpo-1", "other"]
    assert list(arms_in("control")) == []


def test_who_is_held_out_is_in_no_experiment():
    experiments = Experiments(holdout=Holdout(share=0.1, cor=False), experiments=[_experiment()])
    assigner = Assigner(experiments)

    found = [assigner.assign("suggest", {"user": f"u-{i}"}) for i in range(20_000)]

    held = [each for each in found if each.arm == "holdout"]
    assert 0.09 < len(held) / 20_000 < 0.11
    assert held[0].changes == {"cor": False}
    assert all(each.arm.startswith("dpo-1=") for each in found if each.arm != "holdout")


def test_units_are_spread_evenly():
    for salt in range(5):
        slots = [slot_of(f"salt-{salt}", f"u-{i}") // 100 for i in range(50_000)]

        assert chisquare(np.bincount(slots, minlength=100)).pvalue > 0.001


def test_two_experiments_are_independent():
    counts = np.zeros((2, 2))
    for i in range(50_000):
        counts[slot_of("one", f"u-{i}") < 5_000, slot_of("other", f"u-{i}") < 5_000] += 1

    assert chi2_contingency(counts).pvalue > 0.001
