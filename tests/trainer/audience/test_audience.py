"""The true probability of a click is what the formula says, and people act by it."""

from dataclasses import replace
from math import exp
from random import Random

import numpy as np
import pytest

from service.contract.types import PromptContext
from tests.bench.report import ROOT
from trainer.audience.audience import Audience, People
from trainer.audience.constants import FIRST, Constants, drawn
from trainer.audience.fit import grades_name_winner, real_click_shares, simulated_click_shares
from trainer.audience.real import real_scenes
from trainer.audience.scene import Need, Scene
from trainer.audience.scenes import draw_scene

NEED = Need(about="kyoto", kind="city", facet="packing")
OTHER = Need(about="kyoto", kind="city", facet="hotels")
AUDIENCE = Audience()
DATA = ROOT.parent / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="The real data (shared/data) is not beside this checkout.")


def scene_of(task: str = "suggest", query: str = "kyoto in autumn") -> Scene:
    return Scene(task=task, context=PromptContext(n=3, query=query), needs=(NEED, OTHER), chances=(0.7, 0.3))


def people(*needs: int, openness: float = 0.0) -> People:
    return People(needs=np.array(needs), openness=np.full(len(needs), openness), knows={})


def plain(**changes: float) -> Audience:
    """Everybody looks everywhere, and nothing counts but what is said here."""
    nothing = dict.fromkeys(("base", "meets", "wording", "repeats", "known", "long", "openness"), 0.0)
    return Audience(replace(FIRST, examination=(1.0,) * 10, **(nothing | changes)))


def sigmoid(x: float) -> float:
    return 1.0 / (1.0 + exp(-x))


def test_a_query_that_meets_the_need_gains_all_of_it_and_one_that_does_not_nothing() -> None:
    audience = plain(base=-1.0, meets=2.0)

    p = audience.p_click(scene_of(), ["what to pack for kyoto", "lisbon nightlife"], people(0))

    assert p[0] == pytest.approx([sigmoid(1.0), sigmoid(-1.0)])


def test_the_second_look_is_rarer_than_the_first() -> None:
    audience = Audience(replace(plain().constants, examination=(0.9, 0.3)))

    p = audience.p_click(scene_of(), ["a b", "c d", "e f"], people(0))

    # the logit is 0 everywhere, so appeal is 1/2; beyond the list, looks fall on: .3 * (.3 / .9) = .1
    assert p[0] == pytest.approx([0.45, 0.15, 0.05])


def test_who_may_click_once_takes_the_first_that_appeals() -> None:
    audience = plain()

    p = audience.p_click(scene_of("clarify"), ["a b", "c d", "e f"], people(0))

    assert p[0] == pytest.approx([0.5, 0.25, 0.125])  # appeal is 1/2 each
    assert audience.list_click(scene_of("clarify"), p)[0] == pytest.approx(0.875)  # eq. 4: their sum


def test_where_several_clicks_are_taken_they_are_independent() -> None:
    audience = plain()

    p = audience.p_click(scene_of(), ["a b", "c d", "e f"], people(0))

    assert p[0] == pytest.approx([0.5, 0.5, 0.5])
    assert audience.list_click(scene_of(), p)[0] == pytest.approx(0.875)  # eq. 3: 1 - (1/2)^3


def test_repeating_the_question_or_a_query_above_costs() -> None:
    audience = plain(repeats=4.0)

    p = audience.p_click(scene_of(query="kyoto in autumn"), ["kyoto in autumn", "x y", "x y"], people(0))

    assert p[0] == pytest.approx([sigmoid(-4.0), 0.5, sigmoid(-4.0)])


def test_each_word_too_many_costs() -> None:
    audience = plain(long=1.0)

    p = audience.p_click(scene_of(), ["one two three four five six seven eight nine"], people(0))  # two over seven

    assert p[0] == pytest.approx([sigmoid(-2.0)])


def test_what_a_person_knows_already_costs() -> None:
    audience = plain(known=3.0)
    knowing = replace(people(0, 0), knows={("city", "packing"): np.array([True, False])})

    p = audience.p_click(scene_of(), ["what to pack for kyoto"], knowing)

    assert p[:, 0] == pytest.approx([sigmoid(-3.0), 0.5])


def test_an_open_person_clicks_more() -> None:
    assert plain().p_click(scene_of(), ["a b"], people(0, openness=2.0))[0] == pytest.approx([sigmoid(2.0)])


def test_liking_for_words_is_standard_normal_and_the_same_for_all() -> None:
    audience = plain(wording=1.0)
    rng = Random(0)
    scenes = [draw_scene("suggest", audience.world, rng) for _ in range(400)]

    logits = []
    for scene in scenes:
        said = audience.world.say(scene.needs[0], rng)
        both = audience.p_click(scene, [said], audience.people(scene, rng, 2))[:, 0]
        assert both[0] == both[1]
        logits.append(np.log(both[0] / (1 - both[0])))

    # Words come again and again, so the mean of 400 queries is no closer to 0 than that of some dozen words.
    assert abs(np.mean(logits)) < 0.5
    assert 0.6 < np.std(logits) < 1.4


@pytest.mark.parametrize("task", ["suggest", "snippets"])
def test_people_click_as_often_as_the_true_probability_says(task: str) -> None:
    rng = Random(3)
    p = np.array([0.3, 0.05, 0.2])
    scene = scene_of(task)

    counts = np.zeros(3)
    for _ in range(20_000):
        for position in AUDIENCE.clicks(scene, p, rng):
            counts[position - 1] += 1

    standard_error = np.sqrt(p * (1 - p) / 20_000)
    assert np.all(np.abs(counts / 20_000 - p) < 4 * standard_error)


def test_who_takes_one_never_clicks_two() -> None:
    rng = Random(4)

    assert all(len(AUDIENCE.clicks(scene_of("hint"), np.array([0.5, 0.4]), rng)) <= 1 for _ in range(500))


def test_the_needs_of_people_are_those_of_the_scene() -> None:
    drawn_needs = AUDIENCE.people(scene_of(), Random(5), 10_000).needs

    assert np.mean(drawn_needs == 0) == pytest.approx(0.7, abs=4 * (0.7 * 0.3 / 10_000) ** 0.5)


def test_the_expectation_is_the_mean_over_people() -> None:
    scene, queries = scene_of(), ["what to pack for kyoto", "where to stay in kyoto"]

    expected = AUDIENCE.expected_p_click(scene, queries, Random(6), people=50)

    crowd = AUDIENCE.people(scene, Random(6), 50)
    assert expected == pytest.approx(AUDIENCE.p_click(scene, queries, crowd).mean(0))


def test_without_drift_every_day_is_alike_and_with_it_taste_turns() -> None:
    scene, queries = scene_of(), ["what to pack for kyoto", "where to stay in kyoto"]
    first = AUDIENCE.p_click(scene, queries, people(0))

    assert np.array_equal(first, AUDIENCE.p_click(scene, queries, people(0), day=0.0))
    assert not np.allclose(first, AUDIENCE.p_click(scene, queries, people(0), day=14.0))


def test_the_constants_are_frozen_under_their_hash() -> None:
    # Changing a constant re-runs every table: deploy/decisions/0009-the-simulated-audience.md names this hash.
    assert FIRST.digest() == "b4d8dc25ae8e9d1c"


def test_a_second_audience_is_another_one_within_its_prior() -> None:
    second = drawn(1)

    assert second != FIRST
    assert second == drawn(1)
    assert second.digest() != drawn(2).digest()
    for name in ("meets", "wording", "repeats", "openness"):
        assert 0.59 < getattr(second, name) / getattr(FIRST, name) < 1.61


def test_chances_of_needs_sum_to_one_in_every_audience() -> None:
    for constants in (FIRST, drawn(1), drawn(2)):
        audience, rng = Audience(constants), Random(7)
        for task in ("suggest", "snippets", "hint", "clarify", "predict"):
            for _ in range(20):
                chances = draw_scene(task, audience.world, rng).chances
                assert sum(chances) == pytest.approx(1.0)
                assert min(chances) >= 0


@needs_data
def test_simulated_clicks_fall_on_ranks_as_real_ones_do() -> None:
    real, simulated = real_click_shares(DATA / "impressions.tsv"), simulated_click_shares(AUDIENCE, lists=1500, seed=1)

    # 479 real clicks: the standard error of the largest share is .021; the simulation must be well inside it
    assert np.max(np.abs(real - simulated)) < 0.015


def test_grades_name_the_click_winner_as_rarely_as_in_real_data() -> None:
    shares = [grades_name_winner(AUDIENCE, pairs=1200, seed=seed) for seed in (0, 1)]

    assert np.mean(shares) == pytest.approx(0.56, abs=0.04)  # of about 1,800 pairs: standard error .012


@needs_data
def test_real_conversations_are_scenes_whose_one_need_is_the_true_next_query() -> None:
    scenes = real_scenes(DATA / "next_query.jsonl")

    assert len(scenes) > 1000
    for scene in scenes[:50]:
        [need] = scene.needs
        crowd = AUDIENCE.people(scene, Random(8), 2)
        p = AUDIENCE.p_click(scene, [need.text, "zzz qqq"], crowd)
        assert p.shape == (2, 2)


def test_constants_know_what_lies_beyond_their_list() -> None:
    constants = Constants(examination=(0.8, 0.4, 0.2))

    # the ratio of last to first is 1/4 over two steps, so each further position halves
    assert constants.looks(4) == pytest.approx(0.1)
    assert constants.looks(5) == pytest.approx(0.05)
