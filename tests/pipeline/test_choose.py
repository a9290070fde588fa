"""The predictor chooses lists and orders as GQR says, and the logged propensities are the frequencies."""

import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from service.contract.tasks import get_task
from service.contract.types import Candidate, PromptContext, ServedBy, Slate
from service.pipeline.choose import Choice, Chooser
from service.pipeline.request import Trace
from tests.fakes import KnowingPredictor, prediction_of

SUGGEST, HINT = get_task("suggest"), get_task("hint")
RICE = PromptContext(n=3, query="rice")
P = {"a": 0.1, "b": 0.5, "c": 0.3, "d": 0.4}


def by_heart(_: Sequence[str], text: str) -> float:
    return P[text]


def slate_of(*texts: str, **changes: Any) -> Slate:
    candidates = tuple(Candidate(text=text, source=ServedBy.MODEL) for text in texts)
    return replace(Slate(candidates=candidates, served_by=ServedBy.MODEL), **changes)


async def chosen(
    predictor: KnowingPredictor | None,
    *slates: Slate,
    task: Any = SUGGEST,
    trace: Trace | None = None,
    within_s: float = 1,
    random: Random | None = None,
    **choice: Any,
) -> Slate:
    prediction = await prediction_of(predictor)
    chooser = Chooser(prediction, Choice(**choice), timeout_s=1, random=random)
    try:
        return await chooser.choose(task, RICE, slates, trace or Trace(), within_s=within_s)
    finally:
        await prediction.close()


def shown(slate: Slate) -> str:
    return "".join(candidate.text for candidate in slate.candidates)


def scores(slate: Slate) -> list[float | None]:
    return [candidate.score for candidate in slate.candidates]


async def test_the_list_with_the_highest_reward_is_shown() -> None:
    trace = Trace()
    lists = slate_of("a", "b"), slate_of("c", "d"), slate_of("b")

    slate = await chosen(KnowingPredictor(by_heart), *lists, use="best_of", trace=trace)

    # Eq. 3, P(has click): 1 - .9 x .5 = .55 for ab, 1 - .7 x .6 = .58 for cd, .5 for b alone.
    assert (shown(slate), scores(slate)) == ("cd", [0.3, 0.4])
    assert [candidate.propensity for candidate in slate.candidates] == [None, None]
    assert (trace.ctr_version, trace.ctr_problem) == ("ctr-1", None)


async def test_a_single_choice_is_rewarded_by_the_sum() -> None:
    p = {"x": 0.7, "y": 0.4, "z": 0.45}  # eq. 3: .7 and 1 - .6 x .55 = .67; eq. 4: .7 and .85
    lists = slate_of("x"), slate_of("y", "z")

    several = await chosen(KnowingPredictor(lambda _, text: p[text]), *lists, task=SUGGEST, use="best_of")
    single = await chosen(KnowingPredictor(lambda _, text: p[text]), *lists, task=HINT, use="best_of")

    assert (shown(several), shown(single)) == ("x", "yz")


async def test_all_lists_are_scored_in_one_batch() -> None:
    predictor = KnowingPredictor(by_heart)

    await chosen(predictor, slate_of("a", "b"), slate_of("c"), slate_of("d"), use="best_of")

    assert predictor.asked == [[["a", "b"], ["c"], ["d"]]]


async def test_of_equal_lists_the_first_is_shown() -> None:
    slate = await chosen(KnowingPredictor(lambda *_: 0.2), slate_of("a"), slate_of("b"), use="best_of")

    assert shown(slate) == "a"


async def test_a_list_comes_with_its_own_texts_and_a_list_without_them_only_where_there_is_no_other() -> None:
    lacking = slate_of("b", degraded_reason="incomplete_texts")
    whole = slate_of("a", texts={"guide": "the guide of a"})

    best = await chosen(KnowingPredictor(by_heart), lacking, whole, use="best_of")
    only = await chosen(
        KnowingPredictor(by_heart), slate_of("a", degraded_reason="incomplete_texts"), lacking, use="best_of"
    )

    assert (shown(best), best.texts) == ("a", {"guide": "the guide of a"})
    assert shown(only) == "b"


@pytest.mark.alone
@pytest.mark.parametrize("use", ["best_of", "reorder"])
@pytest.mark.parametrize(
    ("predictor", "within_s", "problem"),
    [
        (KnowingPredictor(by_heart, delay_s=0.3), 0.05, "late"),
        (KnowingPredictor(by_heart), 0.0, "late"),
        (KnowingPredictor(by_heart), -1.0, "late"),
        (KnowingPredictor(lambda *_: RuntimeError("torch's own")), 1, "failed"),
        (KnowingPredictor(lambda *_: math.nan), 1, "failed"),
        (None, 1, "no_predictor"),
    ],
    ids=["slow", "no time", "past", "raising", "nan", "none"],
)
async def test_a_predictor_that_does_not_answer_costs_the_scores_and_nothing_else(
    use: Any, predictor: KnowingPredictor | None, within_s: float, problem: str
) -> None:
    trace = Trace()
    started = time.monotonic()

    slate = await chosen(predictor, slate_of("a", "b"), slate_of("c", "d"), use=use, within_s=within_s, trace=trace)

    assert time.monotonic() - started < max(0.0, within_s) + 0.05
    assert (shown(slate), scores(slate)) == ("ab", [None, None])
    assert (trace.ctr_version, trace.ctr_problem) == (None, problem)


async def test_switched_off_nothing_is_asked() -> None:
    predictor, trace = KnowingPredictor(by_heart), Trace()

    slate = await chosen(predictor, slate_of("a", "b"), trace=trace)

    assert slate == slate_of("a", "b")
    assert (predictor.asked, trace.ctr_problem) == ([], None)


async def test_the_model_writes_several_lists_only_where_a_predictor_chooses() -> None:
    with_one, without = await prediction_of(KnowingPredictor(by_heart), task="suggest"), await prediction_of(None)

    assert Chooser(with_one, Choice("best_of", best_of=5)).lists(SUGGEST) == 5
    assert Chooser(with_one, Choice("best_of", best_of=5)).lists(HINT) == 1  # no predictor for it
    assert Chooser(with_one, Choice("reorder", best_of=5)).lists(SUGGEST) == 1
    assert Chooser(without, Choice("best_of", best_of=5)).lists(SUGGEST) == 1
    await with_one.close()


def after(above: Sequence[str], text: str) -> float:
    """b is best, but c is worth little below it."""
    return 0.05 if text == "c" and "b" in above else P[text]


async def test_each_position_gets_the_query_most_likely_to_be_clicked_below_those_above_it() -> None:
    trace = Trace()

    slate = await chosen(KnowingPredictor(after), slate_of("a", "c", "b"), use="reorder", trace=trace)

    # First b (.5 against .1 and .3); then a, since c has only .05 below b.
    assert (shown(slate), scores(slate)) == ("bac", [0.5, 0.1, 0.05])
    assert [candidate.propensity for candidate in slate.candidates] == [1, 1, 1]
    assert trace.ctr_version == "ctr-1"


async def test_of_equal_queries_the_one_that_the_model_wrote_first_stands_first() -> None:
    slate = await chosen(KnowingPredictor(lambda *_: 0.2), slate_of("c", "a", "b"), use="reorder")

    assert shown(slate) == "cab"


async def test_texts_stay_with_a_list_whose_order_changes() -> None:
    slate = await chosen(KnowingPredictor(by_heart), slate_of("a", "b", texts={"question": "which?"}), use="reorder")

    assert (shown(slate), slate.texts) == ("ba", {"question": "which?"})


async def test_an_order_that_is_part_of_the_meaning_is_kept_and_scored() -> None:
    steps = replace(SUGGEST, fixed_order=True)

    slate = await chosen(KnowingPredictor(by_heart), slate_of("a", "b"), task=steps, use="reorder", explore_share=1.0)

    assert (shown(slate), scores(slate)) == ("ab", [0.1, 0.5])
    assert [candidate.propensity for candidate in slate.candidates] == [None, None]


async def test_a_drawn_order_has_the_scores_of_that_order() -> None:
    for seed in range(12):
        slate = await chosen(
            KnowingPredictor(after), slate_of("a", "b", "c"), use="reorder", explore_share=1.0, random=Random(seed)
        )

        texts = shown(slate)
        assert scores(slate) == [after(texts[:k], text) for k, text in enumerate(texts)]
        assert [candidate.propensity for candidate in slate.candidates] == [pytest.approx(1 / 3)] * 3


async def test_a_list_of_one_stands_where_it_stands_for_certain() -> None:
    slate = await chosen(KnowingPredictor(by_heart), slate_of("a"), use="reorder", explore_share=0.4)

    assert [candidate.propensity for candidate in slate.candidates] == [pytest.approx(1.0)]


@pytest.mark.parametrize(
    ("predictor", "best"),
    [
        (KnowingPredictor(by_heart), "bca"),
        (KnowingPredictor(lambda *_: RuntimeError("torch's own")), "abc"),
        (None, "abc"),
    ],
    ids=["scored", "failing", "none"],
)
async def test_the_logged_propensities_are_the_frequencies(predictor: KnowingPredictor | None, best: str) -> None:
    """4,000 lists: a frequency has a standard error of at most sqrt(.25 / 4000) = .008; five of them are allowed."""
    lists, share, random = 4000, 0.3, Random(7)
    prediction = await prediction_of(predictor)
    chooser = Chooser(prediction, Choice("reorder", explore_share=share), timeout_s=5, random=random)
    stood: Counter[tuple[str, int]] = Counter()
    orders: Counter[str] = Counter()
    logged: dict[tuple[str, int], set[float]] = {}
    for _ in range(lists):
        slate = await chooser.choose(SUGGEST, RICE, [slate_of("a", "b", "c")], Trace(), within_s=5)
        orders[shown(slate)] += 1
        for position, candidate in enumerate(slate.candidates, 1):
            stood[candidate.text, position] += 1
            logged.setdefault((candidate.text, position), set()).add(candidate.propensity or 0.0)
    await prediction.close()

    assert len(logged) == 9
    for (text, position), propensities in logged.items():
        # By hand: .7 + .3 / 3 = .8 where the best order has it, .1 elsewhere.
        (propensity,) = propensities
        assert propensity == pytest.approx(0.8 if best[position - 1] == text else 0.1)
        assert stood[text, position] / lists == pytest.approx(propensity, abs=5 * 0.008)
    for order, count in orders.items():  # each of the six is drawn equally often
        assert count / lists == pytest.approx(share / 6 + (1 - share) * (order == best), abs=5 * 0.008)
