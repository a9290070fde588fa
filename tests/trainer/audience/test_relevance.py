"""A query meets a need by its entity, its facet, a related facet, and its words; nothing neural decides."""

import subprocess
import sys
from random import Random

import pytest

from service.contract.types import PromptContext
from trainer.audience.constants import FIRST
from trainer.audience.relevance import Reader, similarity
from trainer.audience.scene import Need, Scene
from trainer.audience.scenes import draw_scene
from trainer.audience.world import World
from trainer.catalogue.asking import ask
from trainer.catalogue.catalogue import load_catalogue

KINSHIP = 0.35
READER = Reader(load_catalogue(), kinship=KINSHIP)


def scene_of(*needs: Need, task: str = "suggest", query: str = "kyoto in autumn") -> Scene:
    context = PromptContext(n=3, query=query)
    return Scene(task=task, context=context, needs=needs, chances=(1 / len(needs),) * len(needs))


def meets(need: Need, query: str) -> float:
    return float(READER.read(scene_of(need), query).meets[0])


PACKING = Need(about="kyoto", kind="city", facet="packing")


def test_the_way_people_ask_for_a_facet_meets_the_need_of_it_wholly() -> None:
    city = load_catalogue().kind["city"]

    for facet in city.facets:
        for text in facet.asks:
            assert meets(Need(about="kyoto", kind="city", facet=facet.id), text.replace("{e}", "kyoto")) == 1.0


def test_a_query_about_a_related_facet_meets_it_in_part_and_one_about_another_less() -> None:
    related = meets(PACKING, "kyoto weather")  # weather leads to packing in the catalogue
    other = meets(PACKING, "live music in kyoto")

    assert related == pytest.approx(KINSHIP)
    assert other < related


def test_a_query_about_another_thing_meets_nothing() -> None:
    assert meets(PACKING, "what to pack for lisbon") == 0.0


def test_half_of_a_name_counts_a_quarter() -> None:
    need = Need(about="new york", kind="city", facet="packing")

    assert meets(need, "what to pack for new york") == 1.0
    # One of the two words of the name: (1/2)^2; the other word left over is part of what is asked: pack alone, F1 = 1.
    assert meets(need, "what to pack for york") == pytest.approx(0.25)


def test_words_alone_decide_where_only_the_words_of_a_need_are_known() -> None:
    need = Need(about="", text="is the museum open on sundays")

    assert meets(need, "museum open sundays") == 1.0
    # content words: {museum, open, sundays} and {museum, tickets}: one in common, F1 = 2 * 1 / (3 + 2)
    assert meets(need, "museum tickets") == pytest.approx(0.4)


def test_a_snippet_is_judged_with_what_stands_around_it() -> None:
    form = next(form for form in load_catalogue().forms if form.id == "poem")
    [other] = [wrapper for form in load_catalogue().forms if form.id == "cover_letter" for wrapper in form.wrappers[:1]]
    scene = scene_of(Need(about="", kind="poem", facet="0/0"), task="snippets", query="write a poem about the sea")
    prefix, suffix = form.wrappers[0]

    assert READER.read(scene, f"{prefix} {form.snippets[0][0]} {suffix}").meets[0] == 1.0
    assert READER.read(scene, f"{other[0]} {form.snippets[0][0]} {other[1]}").meets[0] == 0.0


def test_similarity_is_the_share_of_words_in_common() -> None:
    # {a, b, c} and {b, c, d}: two in common of four
    assert similarity(frozenset("abc"), frozenset("bcd")) == 0.5


@pytest.mark.parametrize("task", ["suggest", "snippets", "hint", "clarify", "predict"])
def test_in_every_task_each_need_said_aloud_is_met(task: str) -> None:
    world = World(load_catalogue(), FIRST)
    rng = Random(0)

    for _ in range(30):
        scene = draw_scene(task, world, rng)
        for number, need in enumerate(scene.needs[:5]):
            if said := world.say(need, rng):
                assert READER.read(scene, said).meets[number] >= 0.6, (need, said)


def test_the_audience_shares_no_neural_network_with_anything() -> None:
    code = (
        "import sys, trainer.audience.in_process, trainer.audience.over_http, trainer.audience.fit, trainer.audience.real;"
        "print([m for m in ('torch', 'sentence_transformers', 'faiss', 'ctr', 'retrieval') if m in sys.modules])"
    )

    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert printed.strip() == "[]"


def test_asking_for_a_facet_is_read_as_that_facet() -> None:
    rng = Random(1)
    city = load_catalogue().kind["city"]
    scene = scene_of(PACKING)

    for facet in city.facets:
        reading = READER.read(scene, ask(facet, "kyoto", rng))
        assert reading.facet is not None
