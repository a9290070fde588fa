"""Judges of words: one verdict for every word, agreement with hand labels, and the truth of simulated people."""

import json
from pathlib import Path
from random import Random

import pytest

from service.contract.errors import ConfigurationError
from service.contract.settings import Settings
from service.contract.types import EventSource, HistoryEvent, PromptContext
from tests.trainer.judges import chat_server
from trainer.audience.audience import Audience
from trainer.audience.scenes import draw_scene
from trainer.word_judges import Asked, get_word_judge, names

LABELLED = [json.loads(line) for line in Path(__file__).with_name("hand_labelled.jsonl").read_text().splitlines()]


def _asked(history, *queries, scene=None):
    events = tuple(HistoryEvent(source=EventSource.SEARCH, text=text) for text in history)
    words = tuple(tuple(query.split()) for query in queries)
    return Asked(context=PromptContext(n=3, history=events), queries=queries, words=words, scene=scene)


def _scene(seed=1):
    return draw_scene("predict", Audience().world, Random(seed))


@pytest.fixture(params=names())
def judge(request):
    with chat_server.running() as server:
        server.usual = chat_server.relevant
        yield get_word_judge(request.param, Settings(judge_url=server.url, judge_model="m", _env_file=None))


def test_every_judge_is_named_as_its_file(judge):
    assert judge.name in names()
    assert type(judge).__module__ == f"trainer.word_judges.{judge.name}"


def test_every_judge_says_something_of_every_word_and_of_nothing_that_it_is_irrelevant(judge):
    scene = _scene()

    several, nothing = judge.judge(
        [_asked(scene.known, "how to cook rice", "rice", scene=scene), _asked(scene.known, scene=scene)]
    )

    assert [len(words) for words in several.words] == [4, 1]
    assert nothing.words == ()
    assert nothing.whole is False


def test_every_judge_prefers_what_was_searched_for_to_nonsense_whatever_the_order(judge):
    scene = _scene()
    good = _asked(scene.known, scene.known[-1], scene=scene)
    bad = _asked(scene.known, "zebra crossing xylophone", scene=scene)

    assert judge.votes([(good, bad), (bad, good), (bad, bad)]) == ["first", "second", "neither"]
    assert judge.whole([bad]) == [False]


def test_a_judge_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(ConfigurationError, match="embedding, intent, openai_http"):
        get_word_judge("oracle", Settings())


def test_the_embedding_judge_agrees_with_hand_labels():
    judge = get_word_judge("embedding", Settings())

    judged = judge.judge([_asked(each["history"], each["query"]) for each in LABELLED])

    pairs = [
        (found, bool(label))
        for each, judgement in zip(LABELLED, judged, strict=True)
        for found, label in zip(judgement.words[0], each["relevant"], strict=True)
    ]
    agreed = {label: sum(found == label for found, wanted in pairs if wanted == label) for label in (True, False)}
    count = {label: sum(wanted == label for _, wanted in pairs) for label in (True, False)}
    print(f"agreement {sum(agreed.values()) / len(pairs):.3f} of {len(pairs)} words by hand")
    assert len(pairs) >= 300
    assert agreed[True] / count[True] > 0.85
    assert agreed[False] / count[False] > 0.9


def test_the_intent_judge_knows_what_a_simulated_person_needs():
    audience, judge = Audience(), get_word_judge("intent", Settings())
    scene = _scene()
    need = max(zip(scene.chances, scene.needs, strict=True), key=lambda each: each[0])[1]
    said = audience.world.say(need, Random(2))

    good, spoiled, bad = judge.judge(
        [
            _asked(scene.known, said, scene=scene),
            _asked(scene.known, f"{said} zebra", scene=scene),
            _asked(scene.known, "zebra crossing", scene=scene),
        ]
    )

    assert good.whole is True
    assert all(good.words[0])
    assert spoiled.words[0][-1] is False
    assert bad.whole is False
    assert not any(bad.words[0])


def test_the_intent_judge_refuses_a_real_log():
    with pytest.raises(ConfigurationError, match="has no scene"):
        get_word_judge("intent", Settings()).judge([_asked(["rice"], "how to cook rice")])
