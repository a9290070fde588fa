"""The model's rung says why it gave no list, and adds up its log-probabilities."""

import time
from dataclasses import replace

import pytest

from service.contract.engine import Adapter
from service.contract.errors import EngineBusy, EngineError, EngineFrozen, EngineUnavailable
from service.contract.policy import Policy
from service.contract.tasks import get_task
from service.contract.types import Slate
from service.pipeline.gather import context_of
from service.pipeline.generate import Generator, NoList
from service.pipeline.request import RecommendRequest, Trace
from tests.fakes import SayingEngine, Serving, own_policy

REQUEST = RecommendRequest(task=get_task("suggest"), n=3, deadline_s=1, query="brown rice")


def generator(engine: SayingEngine, policy: Policy | None = None, **sizes: int) -> Generator:
    given = {"prompt_tokens": 320, "context_tokens": 512, **sizes}
    return Generator(lambda *_: Serving(policy or own_policy(), engine), decoding={}, **given)


async def generate(
    made: Generator, request: RecommendRequest = REQUEST, trace: Trace | None = None, seconds: float = 1
) -> Slate:
    until = time.monotonic() + seconds
    (draft,) = await made.generate("i1", request, context_of(request), trace or Trace(), until=until)
    return draft


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (EngineBusy("full"), "engine_busy"),
        (EngineUnavailable("off"), "engine_unavailable"),
        (EngineError("bad"), "engine_error"),
        (EngineFrozen("frozen"), "engine_error"),
        (ValueError("a bug"), "engine_error"),
        (IndexError(), "engine_error"),
    ],
)
async def test_an_engine_that_fails_gives_its_reason(failure: Exception, reason: str) -> None:
    with pytest.raises(NoList) as none:
        await generate(generator(SayingEngine(lambda _: failure)))

    assert none.value.reason == reason


@pytest.mark.parametrize("said", ["", "<sep>", "???", "<sep><sep>", "\n\n"])
async def test_a_completion_without_a_query_is_unparsable(said: str) -> None:
    with pytest.raises(NoList, match="unparsable"):
        await generate(generator(SayingEngine(lambda _: said)))


@pytest.mark.alone
@pytest.mark.parametrize("seconds", [0.05, 0.0, -1.0])
async def test_an_engine_that_is_late_is_aborted_at_the_deadline(seconds: float) -> None:
    engine = SayingEngine(lambda _: "rice", delay_s=5)
    started = time.monotonic()

    with pytest.raises(NoList, match="deadline"):
        await generate(generator(engine), seconds=seconds)

    assert time.monotonic() - started < max(0.0, seconds) + 0.05
    assert engine.aborted == engine.asked


@pytest.mark.parametrize("locale", ["de", "pt-br", "fil"])
async def test_a_language_that_the_policy_does_not_write_gets_no_list_and_costs_nothing(locale: str) -> None:
    engine = SayingEngine(lambda _: "rice")

    with pytest.raises(NoList, match="locale_not_supported"):
        await generate(generator(engine), replace(REQUEST, locale=locale))

    assert engine.asked == []


@pytest.mark.parametrize(("locales", "locale"), [(("en",), "en-gb"), (("*",), "de"), (("de", "en"), "de-at")])
async def test_a_language_that_the_policy_writes_gets_its_list(locales: tuple[str, ...], locale: str) -> None:
    made = generator(SayingEngine(lambda _: "rice"), own_policy(locales=locales))

    assert (await generate(made, replace(REQUEST, locale=locale))).candidates


@pytest.mark.parametrize("nothing", [{"query": None}, {"query": "\u200b"}, {"query": None, "session": ("\u202e", " ")}])
async def test_with_nothing_to_go_on_nothing_is_asked(nothing: dict[str, object]) -> None:
    with pytest.raises(NoList, match="nothing_to_go_on"):
        await generate(generator(SayingEngine(lambda _: "rice")), replace(REQUEST, task=get_task("hint"), **nothing))


async def test_without_a_policy_there_is_no_list() -> None:
    made = Generator(lambda *_: None, prompt_tokens=320, context_tokens=512, decoding={})

    with pytest.raises(NoList, match="no_policy"):
        await generate(made)


async def test_instructions_that_fill_the_context_are_no_prompt() -> None:
    with pytest.raises(NoList, match="prompt_too_long"):
        await generate(generator(SayingEngine(lambda _: "rice"), prompt_tokens=2, context_tokens=3))


async def test_a_log_probability_is_the_sum_over_the_tokens_of_its_query() -> None:
    said = "rice cooker<sep>brown rice"
    encode = own_policy().tokenizer.encode

    slate = await generate(generator(SayingEngine(lambda _: said)))

    # Every token has -0.5, and the separator belongs to no query.
    assert [c.logprob for c in slate.candidates] == [
        -0.5 * len(encode("rice cooker")),
        -0.5 * len(encode("brown rice")),
    ]


async def test_texts_that_are_missing_are_told() -> None:
    snippets = replace(REQUEST, task=get_task("snippets"))

    slate = await generate(generator(SayingEngine(lambda _: "guide: choose\nrice<sep>beans")), snippets)

    assert (slate.texts, slate.degraded_reason) == ({"guide": "choose"}, "incomplete_texts")


async def test_how_a_list_was_made_is_traced() -> None:
    trace, engine = Trace(), SayingEngine(lambda _: "rice")

    await generate(generator(engine), trace=trace)

    assert trace.policy_version == "policy-1"
    assert trace.prompt_fingerprint == REQUEST.task.fingerprint(own_policy().tokenizer.format)
    assert trace.prompt_text is not None
    assert "Query: brown rice\n" in trace.prompt_text
    # 3 queries of 14 tokens.
    assert trace.sampling == {
        "temperature": 0.7,
        "top_p": 0.95,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "seed": engine.samplings[0].seed,
        "max_tokens": 42,
        "n": 1,
    }
    assert (trace.completion, trace.finish_reason) == (" rice", "stop")


async def test_the_policy_is_read_once_and_its_adapter_goes_to_its_own_engine() -> None:
    adapter = Adapter("dpo-1", 7, "/dpo-1")
    engines = [SayingEngine(lambda _: "rice"), SayingEngine(lambda _: "beans")]
    policies = [own_policy(), replace(own_policy(), version="dpo-1", adapter=adapter)]
    asked: list[str] = []

    def serving(task: str, _: str | None) -> Serving:
        asked.append(task)
        return Serving(policies[len(asked) - 1], engines[len(asked) - 1])

    made, traces = Generator(serving, prompt_tokens=320, context_tokens=512, decoding={}), [Trace(), Trace()]
    slates = [await generate(made, trace=trace) for trace in traces]

    assert asked == ["suggest", "suggest"]
    assert [[c.text for c in slate.candidates] for slate in slates] == [["rice"], ["beans"]]
    assert [trace.policy_version for trace in traces] == ["policy-1", "dpo-1"]
    assert [engine.adapters for engine in engines] == [[None], [adapter]]
