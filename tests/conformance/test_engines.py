"""What every engine must do, run over all of them with the same tiny random models."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from service.contract.engine import Adapter, Completion, Distinct, Engine, Sampling
from service.contract.errors import EngineError, EngineUnavailable
from service.contract.settings import Settings
from service.engines import create_engine
from service.engines.limits import read_limits
from service.engines.scripted import Scripted
from tests import tiny_models
from tests.bench.report import ROOT
from tests.bench.servers import vllm_openai

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONTEXT = 128
GREEDY = Sampling(max_tokens=12, temperature=0.0)
EXACT = Sampling(max_tokens=24, temperature=1.0, top_p=1.0, exact_tokens=True)
LOGPROB_TOLERANCE = 1e-4  # float32 on both sides; kernels add up in another order
NO_VLLM = pytest.mark.skipif(find_spec("vllm") is None, reason="vllm is not installed")
SLOW_FAMILIES = ("qwen", "mistral")
CASES = [
    pytest.param("scripted-llama"),
    pytest.param("transformers_local-llama"),
    *(pytest.param(f"transformers_local-{family}", marks=pytest.mark.slow) for family in SLOW_FAMILIES),
    pytest.param("vllm_local-llama", marks=[NO_VLLM, pytest.mark.timeout(240)]),
    pytest.param("openai_http-llama", marks=[NO_VLLM, pytest.mark.slow, pytest.mark.timeout(300)]),
    *(
        pytest.param(f"vllm_local-{family}", marks=[NO_VLLM, pytest.mark.slow, pytest.mark.timeout(240)])
        for family in SLOW_FAMILIES
    ),
]


@dataclass(frozen=True)
class Subject:
    """An engine under test, its model, and two adapters on it."""

    engine: Engine
    model: Path
    adapters: tuple[Adapter, Adapter]
    fresh: Callable[[], Engine]

    @property
    def prompt(self) -> list[int]:
        return tiny_models.prompt_ids(self.model)

    @property
    def learns(self) -> bool:
        """Whether there is a real model behind it."""
        return self.engine.name != "scripted"


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=CASES)
async def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Subject]:
    name, family = request.param.split("-")
    root = tmp_path_factory.mktemp(request.param)
    model = tiny_models.make_model(root / "model", family)
    paths = [tiny_models.make_adapter(root / f"adapter{k}", model, seed=k) for k in (1, 2)]
    adapters = (Adapter("lora-v1", 1, str(paths[0])), Adapter("lora-v2", 2, str(paths[1])))
    with _server(name, model, root) as url:
        fresh = _factory(name, model, url)
        engine = fresh()
        await engine.start()
        yield Subject(engine, model, adapters, fresh)
        await engine.close()


@contextmanager
def _server(name: str, model: Path, root: Path) -> Iterator[str | None]:
    """vLLM's own server for the engine that asks one: with the adapters that requests bring, and what keeps lists distinct."""
    if name != "openai_http":
        yield None
        return
    options = ["--max-model-len", str(CONTEXT), "--dtype", "float32", "--enforce-eager", "--enable-lora"]
    options += ["--max-loras", str(Settings().lora_max_adapters), "--max-lora-rank", str(Settings().lora_max_rank)]
    options += ["--logits-processors", "service.engines._vllm_distinct:DistinctPieces", "--no-enable-chunked-prefill"]
    more = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "PYTHONPATH": str(ROOT)}
    with vllm_openai(model, root / "vllm.log", *options, **more) as served:
        yield f"http://127.0.0.1:{served.port}/v1"


def _factory(name: str, model: Path, url: str | None = None) -> Callable[[], Engine]:
    settings = Settings(  # type: ignore[call-arg]
        engine_context_tokens=CONTEXT,
        prompt_tokens=64,
        engine_dtype="float32",
        engine_url=url,
        engine_model="policy",
        _env_file=None,
    )
    if name == "scripted":
        return lambda: Scripted([10, 11, 12, 13, tiny_models.SEP_ID, 14, 15, 16], read_limits(model, CONTEXT))
    return lambda: create_engine(name, model, settings)


async def test_a_completion_has_one_raw_logprob_for_each_token_and_a_reason(subject: Subject) -> None:
    (completion,) = await subject.engine.generate("shape", subject.prompt, GREEDY)

    assert 0 < len(completion.token_ids) <= 12
    assert len(completion.token_logprobs) == len(completion.token_ids)
    assert all(logprob <= 0 for logprob in completion.token_logprobs)
    assert completion.finish_reason in ("stop", "length")
    assert completion.finish_reason == "length" or len(completion.token_ids) < 12
    assert (completion.stop_token_id is None) == (completion.finish_reason == "length")


async def test_the_end_of_sequence_token_is_never_part_of_a_completion(subject: Subject) -> None:
    many = Sampling(max_tokens=100, temperature=2.0, top_p=1.0, n=16, seed=1)

    completions = await subject.engine.generate("eos", subject.prompt, many)

    assert all(tiny_models.EOS_ID not in completion.token_ids for completion in completions)
    assert any(completion.finish_reason == "stop" for completion in completions)


@pytest.mark.parametrize("penalty", ["presence_penalty", "frequency_penalty"])
async def test_a_penalty_keeps_tokens_from_coming_again(subject: Subject, penalty: str) -> None:
    if subject.engine.name == "scripted":
        pytest.skip("The scripted engine has no distribution to take a penalty from.")
    plain = Sampling(max_tokens=40, temperature=0.0, exact_tokens=True)

    (free,) = await subject.engine.generate(f"free-{penalty}", subject.prompt, plain)
    (kept,) = await subject.engine.generate(f"kept-{penalty}", subject.prompt, replace(plain, **{penalty: 2.0}))

    assert len(set(kept.token_ids)) > len(set(free.token_ids))


async def test_a_piece_that_was_said_before_the_list_does_not_end(subject: Subject) -> None:
    if subject.engine.name == "scripted":
        pytest.skip("The scripted engine has no distribution to rule anything out of.")
    (free,) = await subject.engine.generate("free-piece", subject.prompt, GREEDY)
    end = next(token for token in free.token_ids[1:] if token != free.token_ids[0])
    said = free.token_ids[: free.token_ids.index(end)]
    other = Distinct(separator_id=end, said=frozenset([(*said, end + 1)]))

    for stops in ((), (end,)):
        ends = replace(GREEDY, stop_token_ids=stops)
        (kept,) = await subject.engine.generate(
            f"kept-{stops}", subject.prompt, replace(ends, distinct=Distinct(separator_id=end, said=frozenset([said])))
        )
        (same,) = await subject.engine.generate(f"same-{stops}", subject.prompt, replace(ends, distinct=other))

        assert kept.token_ids[: len(said)] == said
        assert kept.token_ids[len(said)] != end
        assert same.token_ids == (said if stops else free.token_ids)


async def test_a_list_says_nothing_twice_where_it_is_to_be_distinct(subject: Subject) -> None:
    if subject.engine.name == "scripted":
        pytest.skip("The scripted engine has no distribution to rule anything out of.")
    many = Sampling(max_tokens=60, temperature=0.2, top_p=1.0, exact_tokens=True, n=16, seed=3)
    free = await subject.engine.generate("may-repeat", subject.prompt, many)
    tokens = {token for each in free for token in each.token_ids}
    separator = max(tokens, key=lambda token: sum(_repeats(each, token) for each in free))

    distinct = replace(many, distinct=Distinct(separator_id=separator))
    kept = await subject.engine.generate("distinct", subject.prompt, distinct)

    assert sum(_repeats(each, separator) for each in free) > 0
    assert sum(_repeats(each, separator) for each in kept) == 0


async def test_a_stop_token_ends_a_completion_and_is_not_part_of_it(subject: Subject) -> None:
    (whole,) = await subject.engine.generate("whole", subject.prompt, GREEDY)
    stop = whole.token_ids[len(whole.token_ids) // 2]
    stopping = Sampling(max_tokens=12, temperature=0.0, stop_token_ids=(stop,))

    (cut,) = await subject.engine.generate("cut", subject.prompt, stopping)

    assert cut.token_ids == whole.token_ids[: whole.token_ids.index(stop)]
    assert len(cut.token_logprobs) == len(cut.token_ids)
    assert (cut.finish_reason, cut.stop_token_id) == ("stop", stop)
    assert cut.finish_reason == "stop"


async def test_n_samples_come_back_and_differ(subject: Subject) -> None:
    warm = Sampling(max_tokens=12, temperature=1.0, top_p=1.0, n=3)

    completions = await subject.engine.generate("samples", subject.prompt, warm)

    assert len(completions) == 3
    assert len({completion.token_ids for completion in completions}) > 1


async def test_a_seed_makes_sampling_reproducible(subject: Subject) -> None:
    seeded = Sampling(max_tokens=12, temperature=1.0, top_p=1.0, n=2, seed=7)

    first = await subject.engine.generate("seed-1", subject.prompt, seeded)
    second = await subject.engine.generate("seed-2", subject.prompt, seeded)

    assert [c.token_ids for c in first] == [c.token_ids for c in second]


async def test_a_burst_of_long_seeded_prompts_is_served(subject: Subject) -> None:
    sampling = Sampling(max_tokens=4, temperature=1.0, exact_tokens=True, seed=7)
    prompts = [[5 + k, *[9] * (CONTEXT - 8)] for k in range(48)]  # more tokens than vLLM takes in one step

    completions = await asyncio.gather(
        *(subject.engine.generate(f"burst-{k}", prompt, sampling) for k, prompt in enumerate(prompts))
    )

    assert {len(completion.token_ids) for (completion,) in completions} == {4}


async def test_exact_tokens_are_exact(subject: Subject) -> None:
    completions = await asyncio.gather(
        *(subject.engine.generate(f"exact-{k}", [*subject.prompt, 20 + k], EXACT) for k in range(8))
    )

    assert {len(completion.token_ids) for (completion,) in completions} == {24}
    assert {completion.finish_reason for (completion,) in completions} == {"length"}


@pytest.mark.parametrize(
    "prompt", [[], [5] * CONTEXT, [5] * 1000, [10_000], [-1]], ids=("empty", "full", "long", "unknown", "negative")
)
async def test_a_prompt_that_cannot_be_taken_is_an_engine_error(subject: Subject, prompt: list[int]) -> None:
    with pytest.raises(EngineError) as caught:
        await subject.engine.generate("bad", prompt, GREEDY)

    assert not isinstance(caught.value, EngineUnavailable)
    await subject.engine.check()


@pytest.mark.parametrize(
    "senseless",
    [
        {"n": 0},
        {"n": 2, "temperature": 0.0},
        {"max_tokens": 0},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"presence_penalty": 3.0},
        {"frequency_penalty": float("nan")},
    ],
    ids=str,
)
async def test_sampling_that_makes_no_sense_is_an_engine_error(subject: Subject, senseless: dict[str, Any]) -> None:
    with pytest.raises(EngineError) as caught:
        await subject.engine.generate("senseless", subject.prompt, replace(EXACT, **senseless))

    assert not isinstance(caught.value, EngineUnavailable)


async def test_a_completion_never_leaves_the_context(subject: Subject) -> None:
    greedy = Sampling(max_tokens=CONTEXT, temperature=0.0)

    (completion,) = await subject.engine.generate("room", [5] * (CONTEXT - 3), greedy)

    assert len(completion.token_ids) <= 3


async def test_cancelling_aborts_the_work_in_the_engine(subject: Subject) -> None:
    long = Sampling(max_tokens=CONTEXT - 20, temperature=1.0, exact_tokens=True)
    if isinstance(subject.engine, Scripted):
        subject.engine.delay_s = 5
    tasks = [asyncio.create_task(subject.engine.generate(f"gone-{k}", subject.prompt, long)) for k in range(4)]
    await asyncio.sleep(0.05)
    at_work = subject.engine.running  # type: ignore[attr-defined]

    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    if isinstance(subject.engine, Scripted):
        subject.engine.delay_s = 0
    await _until_idle(subject.engine, 1.0)

    assert at_work > 0
    assert all(task.cancelled() for task in tasks)
    await asyncio.wait_for(subject.engine.check(), 2)


async def test_adapters_work_side_by_side_and_leave_the_base_alone(subject: Subject) -> None:
    one, two = subject.adapters
    ask = subject.engine.generate

    before = await ask("base-1", subject.prompt, GREEDY)
    mixed = await asyncio.gather(
        ask("a", subject.prompt, GREEDY, one), ask("b", subject.prompt, GREEDY, two), ask("c", subject.prompt, GREEDY)
    )
    after = await ask("base-2", subject.prompt, GREEDY)

    assert len({answer[0].token_ids for answer in mixed}) == 3
    assert mixed[2][0].token_ids == before[0].token_ids == after[0].token_ids


async def test_an_adapter_that_cannot_be_loaded_harms_nobody_else(subject: Subject, tmp_path: Path) -> None:
    if not subject.learns:
        pytest.skip("the scripted engine reads no adapters")

    with pytest.raises(EngineError, match="cannot be loaded"):
        await subject.engine.generate("bad", subject.prompt, GREEDY, Adapter("broken", 9, str(tmp_path)))

    await subject.engine.check()


async def test_an_adapter_of_another_base_is_refused_each_time_and_harms_nobody(
    subject: Subject, tmp_path: Path
) -> None:
    if not subject.learns:
        pytest.skip("the scripted engine reads no adapters")
    wider = tiny_models.make_model(tmp_path / "wider", heads=4)
    foreign = Adapter("foreign", 10, str(tiny_models.make_adapter(tmp_path / "foreign", wider, seed=3)))
    ask = subject.engine.generate
    before = [await ask(f"before-{k}", subject.prompt, GREEDY, each) for k, each in enumerate(_with_base(subject))]

    for k in range(2):  # what is half loaded must not count as loaded
        with pytest.raises(EngineError, match="cannot be loaded") as caught:
            await ask(f"foreign-{k}", subject.prompt, GREEDY, foreign)
        assert not isinstance(caught.value, EngineUnavailable)

    after = [await ask(f"after-{k}", subject.prompt, GREEDY, each) for k, each in enumerate(_with_base(subject))]
    assert [answer[0].token_ids for answer in after] == [answer[0].token_ids for answer in before]


async def test_a_dropped_adapter_leaves_the_others_alone_and_may_come_back(subject: Subject) -> None:
    one, two = subject.adapters
    ask = subject.engine.generate
    before = [await ask(f"kept-{k}", subject.prompt, GREEDY, each) for k, each in enumerate((None, one, two))]

    await subject.engine.drop(one)
    await subject.engine.drop(one)
    others = [await ask(f"others-{k}", subject.prompt, GREEDY, each) for k, each in enumerate((None, two))]
    back = await ask("back", subject.prompt, GREEDY, one)
    await subject.engine.drop(one)
    await subject.engine.drop(two)
    alone = await ask("alone", subject.prompt, GREEDY)

    texts = [answer[0].token_ids for answer in before]
    assert [answer[0].token_ids for answer in others] == [texts[0], texts[2]]
    assert (back[0].token_ids, alone[0].token_ids) == (texts[1], texts[0])
    assert len(set(texts)) == 3


async def test_with_every_slot_taken_the_base_and_each_adapter_write_what_they_wrote(
    subject: Subject, tmp_path: Path
) -> None:
    if subject.engine.name == "openai_http":
        pytest.skip(
            "vLLM's own LoRA on a CPU gives the base the weights in the last slot; see service/engines/_cpu_lora.py"
        )
    slots = Settings(_env_file=None).lora_max_adapters  # type: ignore[call-arg]
    paths = [tiny_models.make_adapter(tmp_path / f"a{k}", subject.model, seed=20 + k) for k in range(slots)]
    adapters = [Adapter(f"slot-{k}", 20 + k, str(path)) for k, path in enumerate(paths)]
    ask = subject.engine.generate
    before = await ask("before-slots", subject.prompt, GREEDY)
    alone = [await ask(f"alone-{adapter.name}", subject.prompt, GREEDY, adapter) for adapter in adapters]

    after = await ask("after-slots", subject.prompt, GREEDY)
    mixed = await asyncio.gather(
        *(ask(f"mixed-{k}", subject.prompt, GREEDY, each) for k, each in enumerate((None, *adapters, None)))
    )

    assert after[0].token_ids == before[0].token_ids
    assert [answer[0].token_ids for answer in mixed] == [answer[0].token_ids for answer in (before, *alone, before)]
    assert len({answer[0].token_ids for answer in (before, *alone)}) > 1
    for adapter in adapters:
        await subject.engine.drop(adapter)


async def test_the_first_adapter_may_be_one_that_cannot_be_loaded(subject: Subject, tmp_path: Path) -> None:
    if subject.engine.name != "transformers_local":
        pytest.skip("only transformers_local changes the model for its first adapter")
    engine = subject.fresh()
    await engine.start()
    wider = tiny_models.make_model(tmp_path / "wider", heads=4)
    foreign = Adapter("foreign", 10, str(tiny_models.make_adapter(tmp_path / "foreign", wider, seed=3)))

    with pytest.raises(EngineError, match="cannot be loaded"):
        await engine.generate("foreign", subject.prompt, GREEDY, foreign)
    answers = [
        await engine.generate(f"own-{k}", subject.prompt, GREEDY, each) for k, each in enumerate(_with_base(subject))
    ]
    await engine.close()

    usual = [
        await subject.engine.generate(f"u-{k}", subject.prompt, GREEDY, each)
        for k, each in enumerate(_with_base(subject))
    ]
    assert [answer[0].token_ids for answer in answers] == [answer[0].token_ids for answer in usual]


async def test_dropping_at_an_engine_that_is_not_running_does_nothing(subject: Subject) -> None:
    engine = subject.fresh()

    await engine.drop(subject.adapters[0])
    await engine.close()
    await engine.drop(subject.adapters[0])

    await subject.engine.check()


async def test_vllm_and_transformers_agree_on_tokens_and_logprobs(subject: Subject) -> None:
    if subject.engine.name != "vllm_local":
        pytest.skip("compares vllm_local with transformers_local")
    reference = _factory("transformers_local", subject.model)()
    await reference.start()

    for adapter in (None, *subject.adapters):
        (ours,) = await subject.engine.generate("vllm", subject.prompt, GREEDY, adapter)
        (theirs,) = await reference.generate("transformers", subject.prompt, GREEDY, adapter)
        _assert_equal(ours, theirs)
    await reference.close()


async def test_an_engine_that_is_not_running_says_so(subject: Subject) -> None:
    engine = subject.fresh()

    with pytest.raises(EngineUnavailable):
        await engine.generate("early", subject.prompt, GREEDY)
    await engine.close()
    await engine.close()
    with pytest.raises(EngineUnavailable):
        await engine.generate("late", subject.prompt, GREEDY)
    await subject.engine.check()  # closing one harmed no other


async def test_closing_twice_fails_what_is_in_flight_and_what_comes_later(subject: Subject) -> None:
    """Ends the module's engine: keep this test last."""
    long = Sampling(max_tokens=CONTEXT - 20, exact_tokens=True)
    request = asyncio.create_task(subject.engine.generate("cut-off", subject.prompt, long))
    if not isinstance(subject.engine, Scripted):
        await asyncio.sleep(0.02)

    await subject.engine.close()
    await subject.engine.close()

    with pytest.raises(EngineUnavailable):
        await asyncio.wait_for(request, 5)
    with pytest.raises(EngineUnavailable):
        await subject.engine.generate("late", subject.prompt, GREEDY)


def _with_base(subject: Subject) -> tuple[Adapter | None, ...]:
    return (None, *subject.adapters)


def _repeats(written: Completion, separator: int) -> int:
    """Pieces that ended and had been said."""
    ends = [place for place, token in enumerate(written.token_ids) if token == separator]
    pieces = [written.token_ids[begin + 1 : end] for begin, end in pairwise([-1, *ends]) if begin + 1 < end]
    return len(pieces) - len(set(pieces))


async def _until_idle(engine: Engine, seconds: float) -> None:
    async with asyncio.timeout(seconds):
        while engine.running:  # type: ignore[attr-defined]
            await asyncio.sleep(0.01)


def _assert_equal(ours: Completion, theirs: Completion) -> None:
    assert len(ours.token_ids) >= 4
    assert ours.token_ids == theirs.token_ids
    assert ours.finish_reason == theirs.finish_reason
    assert ours.token_logprobs == pytest.approx(theirs.token_logprobs, abs=LOGPROB_TOLERANCE)
