"""Small stand-ins for tests: an engine that says what it is told, and the tokenizers that policies have.

It knows nothing about HTTP or databases.
"""

import asyncio
import json
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from retrieval.searcher import CoQuery, Found
from service.contract.engine import Adapter, Completion, Engine, Sampling
from service.contract.policy import Policy
from service.contract.tokenizer import PromptTokenizer, TextFormat
from service.contract.types import PromptContext
from service.pipeline.co_occurrence import CoOccurrence
from service.pipeline.score import ClickPrediction, Scorer
from tests.tiny_models import make_tokenizer
from trainer.tokenizer import train_tokenizer

CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


@cache
def own_tokenizer() -> PromptTokenizer:
    """The tokenizer of our own policies, trained by the project's own code on fewer examples."""
    return train_tokenizer(Path(tempfile.mkdtemp(prefix="nextquery-tokenizer-")), examples=300)


@cache
def chat_tokenizer() -> PromptTokenizer:
    """The tokenizer of a chat model from elsewhere: the separator is literal text."""
    directory = make_tokenizer(Path(tempfile.mkdtemp(prefix="nextquery-tokenizer-")))
    config = json.loads((directory / "tokenizer_config.json").read_text())
    (directory / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": CHAT_TEMPLATE}))
    return PromptTokenizer(directory, TextFormat(chat=True))


def own_policy(*, locales: tuple[str, ...] = ("en",)) -> Policy:
    """A policy with our own tokenizer, and no model."""
    return Policy(version="policy-1", directory=Path("."), tokenizer=own_tokenizer(), locales=locales)


@dataclass(frozen=True)
class Serving:
    """A policy and the engine that writes with it."""

    policy: Policy
    engine: Engine


class KnowingSearcher:
    """Knows what people typed next by heart. An exception among the answers is raised; `delay_s` passes first."""

    def __init__(
        self, answers: Mapping[str, Sequence[str] | Exception], *, version: str = "cor-1", delay_s: float = 0.0
    ) -> None:
        self.version = version
        self.asked: list[str] = []
        self.closed = False
        self._answers = answers
        self._delay_s = delay_s

    async def search(self, typed: str, *, timeout_s: float) -> Found:
        self.asked.append(typed)
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.sleep(self._delay_s)
        except TimeoutError:
            return Found(problem="late")
        answer = self._answers.get(typed, ())
        if isinstance(answer, Exception):
            raise answer
        return Found(queries=tuple(CoQuery(text, 1.0, "exact") for text in answer))

    async def close(self) -> None:
        self.closed = True


def co_occurrence_of(searcher: KnowingSearcher | None, *, tasks: Sequence[str] = ("suggest", "hint")) -> CoOccurrence:
    """Co-occurrence whose champion is `searcher`; it is taken up by `refresh`."""

    async def newest() -> tuple[str, Callable[[], Awaitable[Any]]] | None:
        async def open_it() -> Any:
            return searcher

        return (searcher.version, open_it) if searcher else None

    return CoOccurrence(newest, tasks=tasks)


class KnowingPredictor:
    """Knows click probabilities by heart: `p(the queries above, the query)`; an exception that it returns is raised.

    `delay_s` passes first, in the thread that asks. `asked` has the lists of each call, `threads` where it was made.
    """

    def __init__(
        self,
        p: Callable[[Sequence[str], str], float | Exception],
        *,
        version: str = "ctr-1",
        task: str = "*",
        delay_s: float = 0.0,
    ) -> None:
        self.version = version
        self.task = task
        self.delay_s = delay_s
        self.asked: list[list[list[str]]] = []
        self.threads: set[str] = set()
        self._p = p

    def p_click_lists(self, lists: Sequence[tuple[PromptContext, Sequence[str]]]) -> list[list[float]]:
        self.asked.append([list(queries) for _, queries in lists])
        self.threads.add(threading.current_thread().name)
        time.sleep(self.delay_s)
        return [[self._one(queries[:k], queries[k]) for k in range(len(queries))] for _, queries in lists]

    def _one(self, above: Sequence[str], query: str) -> float:
        p = self._p(above, query)
        if isinstance(p, Exception):
            raise p
        return p


async def prediction_of(predictor: KnowingPredictor | None, *, task: str = "*") -> ClickPrediction:
    """Click prediction whose champion for `task` is `predictor`, taken up already."""

    async def newest() -> tuple[str, Callable[[], Awaitable[Scorer]]] | None:
        async def open_it() -> Scorer:
            return Scorer(predictor)  # type: ignore[arg-type]

        return (predictor.version, open_it) if predictor else None

    made = ClickPrediction({task: newest})
    await made.refresh()
    return made


class SayingEngine:
    """Completes every prompt with what `say(prompt token ids)` returns, each token at log-probability -0.5.

    Of several texts that it returns, each sample says the next one; an exception that it returns is raised.
    `delay_s` passes first. `aborted` lists the requests that were cancelled.
    """

    name = "saying"

    def __init__(self, say: Callable[[Sequence[int]], str | list[str] | Exception], *, delay_s: float = 0.0) -> None:
        own_tokenizer()  # trained now, and not inside a deadline
        self._say = say
        self._delay_s = delay_s
        self.asked: list[str] = []
        self.samplings: list[Sampling] = []
        self.adapters: list[Adapter | None] = []
        self.aborted: list[str] = []

    async def start(self) -> None: ...

    async def generate(
        self, request_id: str, prompt_token_ids: Sequence[int], sampling: Sampling, adapter: Adapter | None = None
    ) -> list[Completion]:
        self.asked.append(request_id)
        self.samplings.append(sampling)
        self.adapters.append(adapter)
        try:
            await asyncio.sleep(self._delay_s)
        except asyncio.CancelledError:
            self.aborted.append(request_id)
            raise
        said = self._say(prompt_token_ids)
        if isinstance(said, Exception):
            raise said
        texts = [said] if isinstance(said, str) else said[: sampling.n]
        return [_completion(tuple(own_tokenizer().encode_response(text)[:-1])) for text in texts]

    async def check(self) -> None: ...

    async def drop(self, adapter: Adapter) -> None: ...

    async def close(self) -> None: ...


def _completion(ids: tuple[int, ...]) -> Completion:
    return Completion(token_ids=ids, token_logprobs=(-0.5,) * len(ids), finish_reason="stop")
