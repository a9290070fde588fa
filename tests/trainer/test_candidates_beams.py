"""Which lists stay and which are rejected: the sums of diverse beam search, worked out by hand."""

import pytest

from ctr.predictor import Reward
from trainer.candidates.beams import Beam, lowest, overlap, select


def beam(*queries: str, reward: float) -> Beam:
    return Beam(token_ids=(), reward=Reward(True, reward), queries=queries)


def kept(groups: list[list[Beam]]) -> list[list[tuple[str, ...]]]:
    return [[each.queries for each in group] for group in groups]


RED, RED_HOT, BLUE = beam("rice red", reward=0.4), beam("rice red hot", reward=0.39), beam("soup blue", reward=0.3)


def test_overlap_is_the_share_of_terms_that_both_have():
    assert overlap("rice red", "Rice, red hot!") == pytest.approx(2 / 3)
    assert overlap("rice", "soup") == 0
    assert overlap("rice", "rice") == 1


def test_one_group_keeps_the_highest_rewards():
    assert kept(select([[BLUE, RED_HOT, RED]], 1, width=2, diversity=0.0)) == [[("rice red",), ("rice red hot",)]]


@pytest.mark.parametrize(
    ("diversity", "second"),
    [(0.1, "rice red hot"), (0.2, "soup blue")],  # .39 - .1 * 2/3 = .323 > .3, and .39 - .2 * 2/3 = .257 < .3
)
def test_a_later_group_pays_for_the_terms_of_an_earlier_one(diversity, second):
    groups = select([[RED], [RED_HOT, BLUE]], 1, width=1, diversity=diversity)

    assert kept(groups) == [[("rice red",)], [(second,)]]
    assert groups[1][0].reward.value in (0.39, 0.3)  # the reward itself stays what it is


def test_every_list_of_every_earlier_group_counts():
    pools = [[RED], [beam("rice hot", reward=0.5)], [RED_HOT, BLUE]]

    groups = select(pools, 1, width=1, diversity=0.1)  # .39 - .1 * (2/3 + 2/3) = .257 < .3

    assert kept(groups)[2] == [("soup blue",)]


def test_only_the_query_of_this_round_counts():
    first, second = beam("rice red", "tea", reward=0.4), beam("rice red", "soup", reward=0.3)

    assert kept(select([[first], [second, BLUE]], 2, width=1, diversity=9.0)) == [[first.queries], [second.queries]]


def test_no_list_is_chosen_twice_whatever_its_case():
    again = beam("Rice Red?", reward=0.4)

    assert kept(select([[RED], [again, BLUE]], 1, width=2, diversity=0.0)) == [[("rice red",)], [("soup blue",)]]


def test_the_lowest_are_rejected_worst_first():
    lists = [["a"], ["b"], ["c"], ["d"]]

    assert lowest(lists, [0.3, 0.1, 0.4, 0.2], 2, diversity=0.0) == [1, 3]
    assert lowest(lists, [0.3, 0.1, 0.4, 0.2], 9, diversity=0.0) == [1, 3, 0, 2]


def test_rejected_lists_pay_for_terms_that_they_share():
    lists = [["rice red", "rice hot"], ["rice red", "hot rice"], ["soup blue"]]

    assert lowest(lists, [0.1, 0.15, 0.3], 2, diversity=0.0) == [0, 1]
    assert lowest(lists, [0.1, 0.15, 0.3], 2, diversity=0.2) == [0, 2]  # .15 + .2 * 1 > .3
