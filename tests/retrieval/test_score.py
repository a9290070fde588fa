"""Candidates are sorted by similarity x normalised count x recency, and merged."""

import pytest

from retrieval.dictionaries import NextQuery
from retrieval.score import sort_candidates
from service.contract.query_text import match_key, query_id


def following(**weights: float) -> list[NextQuery]:
    return [NextQuery(text.replace("_", " "), weight) for text, weight in weights.items()]


def test_without_neighbours_the_weights_decide() -> None:
    found = sort_candidates("rice", following(brown_rice=0.2, rice_cooker=0.3), [], {}, most=10)

    assert [(each.text, each.score, each.source) for each in found] == [
        ("rice cooker", pytest.approx(0.3), "exact"),
        ("brown rice", pytest.approx(0.2), "exact"),
    ]


def test_what_both_say_adds_up_and_stays_exact() -> None:
    # 0.1 + 0.9 ** 12 * 0.5 = 0.1 + 0.28243 * 0.5 = 0.24121; the other 0.28243 * 0.4 = 0.11297; similarity 1 for both.
    similarities = {query_id("a"): 1.0, query_id("b"): 1.0}

    found = sort_candidates("q", following(a=0.1), [(0.9, following(a=0.5, b=0.4))], similarities, most=10)

    assert [(each.text, each.source) for each in found] == [("a", "exact"), ("b", "semantic")]
    assert [each.score for each in found] == pytest.approx([0.24121, 0.11297], abs=1e-4)


def test_a_candidate_that_is_like_the_query_goes_before_one_that_is_not() -> None:
    similarities = {query_id("near"): 0.9, query_id("neighbour"): 0.5}

    found = sort_candidates("q", following(far=0.5, near=0.2), [], similarities, most=10)

    # near: 0.2 * 0.9 ** 8 = 0.08609; far is not among the nearest, so it has the farthest's: 0.5 * 0.5 ** 8 = 0.00195.
    assert [(each.text, round(each.score, 4)) for each in found] == [("near", 0.0861), ("far", 0.002)]


def test_the_query_itself_is_no_candidate_and_a_form_of_one_counts_as_one() -> None:
    exact = [NextQuery("RICE?", 0.9), NextQuery("Brown rice", 0.2), NextQuery("brown  rice!", 0.1)]

    found = sort_candidates("rice", exact, [], {}, most=10)

    assert [(each.text, round(each.score, 2)) for each in found] == [("Brown rice", 0.3)]
    assert match_key(found[0].text) == "brown rice"


def test_only_the_best_come_back_and_ties_have_one_order() -> None:
    found = sort_candidates("q", following(c=0.1, a=0.1, b=0.1, z=0.2), [], {}, most=3)

    assert [each.text for each in found] == ["z", "a", "b"]


def test_a_similarity_below_zero_counts_as_none() -> None:
    found = sort_candidates("q", following(a=0.5), [], {query_id("a"): -0.5}, most=3)

    assert [each.score for each in found] == [0.0]
