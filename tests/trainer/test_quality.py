"""Wins, ties and losses are those of the verdicts, in both orders; intervals are worked out by hand."""

import pytest

from service.contract.types import PromptContext
from trainer.assess import Written
from trainer.list_judges import Rating, Relatedness
from trainer.prompts import prompt_of
from trainer.quality import Tally, compared

LOW, MODERATE, HIGH = Relatedness
NEW: frozenset = frozenset()


def written(*queries: str) -> Written:
    prompt = prompt_of("suggest", PromptContext(n=3, query="rice"))
    return Written(prompt=prompt, queries=queries, texts={}, problem=None, tokens=9, repeated=0)


class Rates:
    """Gives each query the rating of its first letter: h, m, l; an r repeats the list. `prefers_first` favours a place."""

    name, spent = "rates", {}

    def __init__(self, *, prefers_first: bool = False, silent: str = "") -> None:
        self._prefers_first, self._silent = prefers_first, silent

    def ratings(self, pairs):
        return [
            None if self._silent in (*pair.first, *pair.second) else (self._of(pair.first, 1), self._of(pair.second, 0))
            for pair in pairs
        ]

    def _of(self, queries, first):
        levels = {"h": HIGH, "m": MODERATE, "l": LOW, "r": HIGH}
        if self._prefers_first:
            return Rating(tuple(HIGH if first else LOW for _ in queries), tuple(NEW for _ in queries))
        return Rating(
            tuple(levels[query[0]] for query in queries),
            tuple(frozenset({"list"}) if query[0] == "r" else NEW for query in queries),
        )


def test_a_list_wins_by_the_mean_of_its_levels_and_by_the_share_that_is_new():
    mine = [written("h1", "m2"), written("l1", "l2"), written("h1", "r2"), written("m1", "m2")]
    theirs = [written("m1", "m2"), written("h1", "l2"), written("h1", "h2"), written("h1", "l2")]

    found = compared(mine, theirs, Rates())

    assert found.relatedness == Tally(wins=1, ties=2, losses=1, unjudged=0)
    assert found.exclusivity == Tally(wins=0, ties=3, losses=1, unjudged=0)
    assert found.levels == (2 / 8, 3 / 8, 3 / 8)  # of l1 l2, of m2 m1 m2, of h1 h1 r2
    assert found.repeats == (0.0, 0.0, 1 / 8)


def test_a_win_in_one_order_alone_is_a_tie():
    found = compared([written("h1")] * 5, [written("l1")] * 5, Rates(prefers_first=True))

    assert found.relatedness == Tally(wins=0, ties=5, losses=0, unjudged=0)


def test_an_empty_list_loses_and_two_are_a_tie():
    found = compared([written(), written("l1"), written()], [written("l1"), written(), written()], Rates())

    assert found.relatedness == Tally(wins=1, ties=1, losses=1, unjudged=0)
    assert found.exclusivity == Tally(wins=1, ties=1, losses=1, unjudged=0)


def test_what_was_not_judged_is_in_no_share():
    found = compared([written("h1"), written("h2")], [written("l1"), written("l2")], Rates(silent="h2"))

    assert found.relatedness == Tally(wins=1, ties=0, losses=0, unjudged=1)
    assert found.relatedness.net == 100.0


def test_a_judge_that_cannot_tell_relatedness_still_tells_exclusivity():
    class Half(Rates):
        def _of(self, queries, first):
            return Rating((), super()._of(queries, first).repeats)

    found = compared([written("h1", "h2")], [written("h1", "r2")], Half())

    assert found.relatedness == Tally(wins=0, ties=0, losses=0, unjudged=1)
    assert found.exclusivity == Tally(wins=1, ties=0, losses=0, unjudged=0)
    assert found.levels == ()
    assert found.figures()["relatedness_net_low"] == -100.0


def test_the_interval_is_that_of_a_mean_of_signs():
    tally = Tally(wins=60, ties=20, losses=20, unjudged=5)

    low, high = tally.interval

    # mean (60 - 20) / 100 = .4; variance .8 - .16 = .64; 1.96 * sqrt(.64 / 100) = .1568
    assert tally.net == pytest.approx(40.0)
    assert (low, high) == pytest.approx((24.32, 55.68))
