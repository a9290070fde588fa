"""Rewrites say the same in other words, and what cannot be shown is none."""

import json

import pytest

from service.contract.errors import ConfigurationError, JudgeError
from service.contract.settings import Settings
from service.contract.types import PromptContext
from tests.trainer.judges import chat_server
from tests.trainer.judges.chat_server import said
from trainer.catalogue.example import Example
from trainer.chat import Chat
from trainer.rewriters import get_rewriter, names
from trainer.rewriters.openai_http import ChatRewriter
from trainer.sft import SftConfig, annotated_lists

RICE = Example(task="suggest", context=PromptContext(n=2, query="rice"), queries=("rice recipe", "rice price"))
TEA = Example(task="suggest", context=PromptContext(n=2, query="tea"), queries=("tea recipe", "tea price"))


@pytest.fixture
def server():
    with chat_server.running() as started:
        started.usual = _in_capitals
        yield started


@pytest.fixture
def rewriter(server):
    return ChatRewriter(Chat(server.url, "m", timeout_s=5, pause_s=0.01))


def _in_capitals(body):
    question = json.loads(body["messages"][1]["content"])
    told = [{"query": e["query"], "text": f"{e['text']} again {question['rewrite']}"} for e in question["queries"]]
    return said(json.dumps({"queries": told[::-1]}))


def _reply(*texts):
    return lambda _: said(json.dumps({"queries": [{"query": k, "text": text} for k, text in enumerate(texts, 1)]}))


def test_the_rewriters_are_found_by_their_files():
    assert names() == ["catalogue", "openai_http"]
    with pytest.raises(ConfigurationError, match=r"no rewriter 'poet'.*catalogue, openai_http"):
        get_rewriter("poet", Settings())


def test_a_model_rewrites_the_queries_and_leaves_the_context(server, rewriter):
    found = rewriter.rewrites([RICE, TEA], 2, ["", ""])

    assert [[each.queries for each in listed] for listed in found] == [
        [("rice recipe again 1", "rice price again 1"), ("rice recipe again 2", "rice price again 2")],
        [("tea recipe again 1", "tea price again 1"), ("tea recipe again 2", "tea price again 2")],
    ]
    assert found[0][0].context == RICE.context
    assert server.questions[0].keys() == {"asked", "queries", "rewrite"}


BAD = {
    "loses a query": _reply("one"),
    "writes one twice": _reply("one", "ONE "),
    "writes what was asked": _reply("one", "Rice"),
    "writes nothing": _reply("one", "  "),
    "writes a novel": _reply("one", "x" * 161),
    "talks": lambda _: said("Certainly!"),
}


@pytest.mark.parametrize("play", BAD.values(), ids=BAD.keys())
def test_what_could_not_be_shown_is_no_rewrite(server, rewriter, play):
    server.usual = lambda body: _in_capitals(body) if "tea" in body["messages"][1]["content"] else play(body)

    found = rewriter.rewrites([RICE, TEA], 1, ["", ""])

    assert [len(listed) for listed in found] == [0, 1]


def test_a_model_that_never_answers_is_an_error(server, rewriter):
    server.usual = BAD["talks"]

    with pytest.raises(JudgeError):
        rewriter.rewrites([RICE], 1, [""])


def test_annotated_lists_have_the_rewrites_of_whoever_rewrites():
    class Echo:
        name = "echo"

        def rewrites(self, examples, count, seeds):
            assert len(set(seeds)) == len(examples)
            return [[each] * count for each in examples]

    plain = annotated_lists(SftConfig(lists_per_task=3, rewrites=0))
    twice = annotated_lists(SftConfig(lists_per_task=3, rewrites=1), Echo())

    assert len(twice) == 2 * len(plain) == 30
    assert all(twice.count(example) == 2 for example in plain)
