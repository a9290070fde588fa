"""The judge of lists over HTTP: what it asks, and that no bad answer ever becomes a verdict."""

import json

import pytest

from service.contract.errors import JudgeError
from service.contract.types import PromptContext
from tests.trainer.judges import chat_server
from tests.trainer.judges.chat_server import said, status
from trainer.chat import ATTEMPTS, Chat
from trainer.list_judges import Pair, Rating, Relatedness
from trainer.list_judges.openai_http import ChatListJudge

PAIR = Pair(
    task="suggest",
    context=PromptContext(n=2, query="rice", session=("tea",), answer="Rice is a grain."),
    first=("rice recipe", "zebra"),
    second=("rice price",),
)
NEW: frozenset = frozenset()
GOOD = (
    Rating((Relatedness.HIGH, Relatedness.LOW), (NEW, frozenset({"answer", "list"}))),
    Rating((Relatedness.MODERATE,), (NEW,)),
)


def _rated(number, relatedness="high", *repeats):
    return {"query": number, "relatedness": relatedness, "repeats": list(repeats)}


def _reply(first, second):
    return said(json.dumps({"first": first, "second": second}), prompt_tokens=100, completion_tokens=10)


FIRST = [_rated(2, "low", "answer", "list"), _rated(1)]  # in another order than they stand
SECOND = [_rated(1, "moderate")]


@pytest.fixture
def server():
    with chat_server.running() as started:
        started.usual = lambda _: _reply(FIRST, SECOND)
        yield started


@pytest.fixture
def judge(server):
    return ChatListJudge(Chat(server.url, "m", timeout_s=5, pause_s=0.01))


def test_both_lists_are_rated_query_by_query_in_one_request(server, judge):
    assert judge.ratings([PAIR]) == [GOOD]

    (body,) = server.bodies
    assert body["temperature"] == 0
    assert body["response_format"]["json_schema"]["strict"] is True
    assert server.questions == [
        {
            "asked": ["tea", "rice"],
            "answer": "Rice is a grain.",
            "kind": "search queries",
            "first": [{"query": 1, "text": "rice recipe"}, {"query": 2, "text": "zebra"}],
            "second": [{"query": 1, "text": "rice price"}],
        }
    ]
    assert judge.spent == {"requests": 1, "repeats": 0, "prompt_tokens": 100, "completion_tokens": 10}


def test_the_swapped_pair_shows_the_lists_the_other_way_round(server, judge):
    server.usual = lambda _: _reply(SECOND, FIRST)

    assert judge.ratings([PAIR.swapped()]) == [GOOD[::-1]]
    assert [each["text"] for each in server.questions[0]["first"]] == ["rice price"]


def test_snippets_are_called_what_they_are(server, judge):
    judge.ratings([Pair(task="snippets", context=PAIR.context, first=("a", "b"), second=("c",))])

    assert server.questions[0]["kind"] == "refinements of a text"


def test_nobody_is_asked_about_two_empty_lists(server, judge):
    empty = Pair(task="suggest", context=PAIR.context, first=(), second=())

    assert judge.ratings([empty, PAIR]) == [(Rating((), ()), Rating((), ())), GOOD]
    assert len(server.bodies) == 1


BAD = {
    "drops a query": lambda _: _reply(FIRST[:1], SECOND),
    "rates a query twice": lambda _: _reply([*FIRST[:1], FIRST[0]], SECOND),
    "rates the wrong list": lambda _: _reply(SECOND, FIRST),
    "knows a fourth level": lambda _: _reply([_rated(1, "huge"), FIRST[0]], SECOND),
    "invents a repetition": lambda _: _reply([_rated(1, "high", "mood"), FIRST[0]], SECOND),
    "talks nonsense": lambda _: said("Both are lovely."),
    "is cut": lambda _: said('{"first": [', finish_reason="length"),
    "refuses": lambda _: said(None, refusal="I cannot judge people."),
    "is busy": status(503),
}


@pytest.mark.parametrize("play", BAD.values(), ids=BAD.keys())
def test_a_bad_answer_is_asked_for_again(server, judge, play):
    server.plays = [play]

    assert judge.ratings([PAIR]) == [GOOD]
    assert len(server.bodies) == 2


@pytest.mark.parametrize("play", BAD.values(), ids=BAD.keys())
def test_what_is_never_answered_well_has_no_verdict(server, judge, play):
    other = Pair(task="suggest", context=PAIR.context, first=("x", "y"), second=("z",))
    server.usual = lambda body: _reply(FIRST, SECOND) if "zebra" in body["messages"][1]["content"] else play(body)

    assert judge.ratings([PAIR, other]) == [GOOD, None]


def test_a_judge_that_gives_no_verdict_at_all_is_an_error(server, judge):
    server.usual = BAD["refuses"]

    with pytest.raises(JudgeError, match=rf"asked {ATTEMPTS} times.*refused to judge"):
        judge.ratings([PAIR])
