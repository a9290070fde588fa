"""A policy, a predictor and an embedder whose every answer is known, for tests of the candidate search.

It knows nothing about models: texts come from a function, probabilities from a hash.
"""

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.contract.engine import Adapter, Completion, Sampling
from service.contract.policy import Decoding, Policy
from service.contract.tokenizer import PromptTokenizer
from service.contract.types import PromptContext
from service.engines.limits import completion
from tests.fakes import own_tokenizer
from trainer.candidates import Candidates, CandidateSearch, SearchConfig
from trainer.prompts import prompt_of

WORDS = "recipe price history video calories nearby".split()
PLAIN = SearchConfig(near_duplicate=None)
RICE, TEA = (prompt_of("suggest", PromptContext(n=3, query=topic)) for topic in ("rice", "tea"))
Writes = Callable[[str, str, Sampling], Sequence[str]]


def known_policy(tokenizer: PromptTokenizer | None = None, *, temperature: float = 0.7) -> Policy:
    """A policy with our own tokenizer, or another, and no model."""
    decoding = Decoding(temperature=temperature, presence_penalty=1.5)
    return Policy(
        version="known", directory=Path("."), tokenizer=tokenizer or own_tokenizer(), locales=("en",), decoding=decoding
    )


class KnownEngine:
    """Goes on with every prompt as `writes(query, response so far, sampling)` says; sample i gets text i, in turn.

    A text is the rest of the whole response; stop tokens cut it. `waves` counts how often the engine was idle before.
    """

    name = "known"

    def __init__(self, writes: Writes, tokenizer: PromptTokenizer | None = None) -> None:
        self.asked: list[tuple[str, str, Sampling]] = []
        self.waves = self.in_flight = self.most_in_flight = 0
        self.fail_after: int | None = None
        self._writes = writes
        self._tokenizer = tokenizer or own_tokenizer()

    async def start(self) -> None: ...

    async def generate(
        self, request_id: str, prompt_token_ids: Sequence[int], sampling: Sampling, adapter: Adapter | None = None
    ) -> list[Completion]:
        self.waves += self.in_flight == 0
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(0.002)
        finally:
            self.in_flight -= 1
        inputs, _, so_far = self._tokenizer.decode(list(prompt_token_ids)).partition("### Response:\n")
        query = next(
            (
                line.partition(":")[2].strip()
                for line in inputs.split("\n")
                if line.strip().lower().startswith("query:")
            ),
            "",
        )
        self.asked.append((query, so_far, sampling))
        if self.fail_after is not None and len(self.asked) > self.fail_after:
            raise RuntimeError("killed")
        texts = self._writes(query, so_far, sampling)
        return [self._sample(texts[i % len(texts)], sampling) for i in range(sampling.n)]

    async def check(self) -> None: ...

    async def close(self) -> None: ...

    def _sample(self, text: str, sampling: Sampling) -> Completion:
        ids = self._tokenizer.encode_response(text)[: sampling.max_tokens]
        stops = {*self._tokenizer.eos_ids, *sampling.stop_token_ids}
        return completion(ids, [-0.5] * len(ids), stops)


def words_of_topic(query: str, so_far: str, sampling: Sampling) -> list[str]:
    """Random lists of three about the query, which the seed decides: the rest of one that is begun."""
    rng = Random(sampling.seed)
    written = so_far.count("<sep>")
    lists = [[f"{query} {word}" for word in rng.sample(WORDS, 3 - written)] for _ in range(sampling.n)]
    return ["<sep>".join(queries) for queries in lists]


class KnownPredictor:
    """P(click) by a hash of what it sees; `p(query, above)` says another. `rounds` and `lists` are what it was asked."""

    version, task, sha256 = "ctr-known", "*", "0" * 64

    def __init__(self, p: Callable[[str, Sequence[str]], float] | None = None) -> None:
        self.rounds: list[list[tuple[PromptContext, Sequence[str], Sequence[str]]]] = []
        self.lists: list[list[tuple[PromptContext, Sequence[str]]]] = []
        self._p = p or p_by_hash

    def p_click_lists(self, lists: Sequence[tuple[PromptContext, Sequence[str]]]) -> list[NDArray[Any]]:
        self.lists.append(list(lists))
        return [np.array([self._p(q, queries[:k]) for k, q in enumerate(queries)]) for _, queries in lists]

    def score_round(self, beams: Sequence[tuple[PromptContext, Sequence[str], Sequence[str]]]) -> list[NDArray[Any]]:
        self.rounds.append(list(beams))
        return [np.array([self._p(q, above) for q in following]) for _, above, following in beams]


def p_by_hash(query: str, above: Sequence[str]) -> float:
    """0 to .5, and another for every order."""
    digest = hashlib.sha256("|".join([*above, query]).encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**33


class SameWords:
    """Texts are alike by the letters that they share: rows of unit vectors. `asked` has the texts of each call."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.asked.append(list(texts))
        rows = np.zeros((len(texts), 64), np.float32)
        for number, text in enumerate(texts):
            for word in text.split():
                rows[number, int(hashlib.sha256(word.encode()).hexdigest(), 16) % 64] += 1
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def search_with(
    engine: KnownEngine, predictor: KnownPredictor, config: SearchConfig = PLAIN, **more
) -> CandidateSearch:
    return CandidateSearch(known_policy(), engine, predictor, config, **more)


def chosen(found: Candidates) -> list[tuple[str, ...]]:
    return [each.queries for each in found.chosen]
