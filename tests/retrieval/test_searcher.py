"""GQR's rule: when fewer than n queries followed, those that followed similar queries are merged in."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from retrieval.dictionaries import NextQuery
from retrieval.searcher import Searcher, SearchRule
from service.contract.errors import RetrievalError
from service.contract.query_text import match_key, query_id

SPACE = ["rice", "brown rice", "rice pudding", "pasta", "noodles", "weather"]
NEXT = {
    "rice": ["brown rice", "rice cooker"],
    "brown rice": ["brown rice calories", "rice cooker"],
    "pasta": ["pasta sauce"],
    "weather": ["weather tomorrow"],
}


class WordEncoder:
    """Texts with the same words are alike. Counts its batches; `delay_s` passes in each."""

    dimension = 64

    def __init__(self, delay_s: float = 0.0, failure: Exception | None = None) -> None:
        self.batches: list[list[str]] = []
        self._delay_s = delay_s
        self._failure = failure

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.batches.append(list(texts))
        time.sleep(self._delay_s)
        if self._failure:
            raise self._failure
        vectors = np.zeros((len(texts), self.dimension), np.float32)
        for row, text in enumerate(texts):
            for word in text.split():
                vectors[row, query_id(word) % self.dimension] += 1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class ExactIndex:
    """Compares with every query of `SPACE`."""

    count = len(SPACE)
    dimension = WordEncoder.dimension

    def nearest(self, vectors: NDArray[np.float32], k: int) -> list[list[tuple[int, float]]]:
        similarities = vectors @ WordEncoder().encode(SPACE).T
        return [
            sorted(zip(map(query_id, SPACE), row.tolist(), strict=True), key=lambda x: -x[1])[:k]
            for row in similarities
        ]


class KnownDictionary:
    """`NEXT` by heart; each call is counted, and may fail."""

    build = "b"

    def __init__(self, failure: Exception | None = None) -> None:
        self.calls: list[list[int]] = []
        self._failure = failure

    async def next_queries(self, query_ids: Sequence[int]) -> list[tuple[NextQuery, ...]]:
        self.calls.append(list(query_ids))
        if self._failure:
            raise self._failure
        known = {query_id(key): tuple(NextQuery(text, 0.5) for text in texts) for key, texts in NEXT.items()}
        return [known.get(number, ()) for number in query_ids]

    async def close(self) -> None: ...


def searcher(*, encoder: WordEncoder | None = None, dictionary: KnownDictionary | None = None, **rule: Any) -> Searcher:
    given = SearchRule(**{"n": 3, "neighbours": 2, "floor": 0.5, "most": 10, **rule})
    return Searcher("b", encoder or WordEncoder(), ExactIndex(), dictionary or KnownDictionary(), given)  # type: ignore[arg-type]


async def texts(made: Searcher, typed: str, *, timeout_s: float = 5.0) -> list[str]:
    return [each.text for each in (await made.search(typed, timeout_s=timeout_s)).queries]


async def test_a_query_that_enough_followed_is_not_compared_with_others() -> None:
    encoder, dictionary = WordEncoder(), KnownDictionary()

    found = await texts(searcher(encoder=encoder, dictionary=dictionary, n=2), "Rice?")

    assert found == ["brown rice", "rice cooker"]
    assert encoder.batches == []
    assert len(dictionary.calls) == 1


async def test_a_query_that_too_few_followed_gets_those_of_similar_queries_too() -> None:
    found = await texts(searcher(n=3), "rice")

    assert set(found) == {"brown rice", "rice cooker", "brown rice calories"}
    assert found[0] == "brown rice"  # what is like the query itself goes first


async def test_a_query_that_nobody_typed_gets_those_of_similar_queries() -> None:
    found = await searcher().search("cheap brown rice", timeout_s=5)

    assert [each.source for each in found.queries] == ["semantic"] * len(found.queries)
    assert "brown rice calories" in [each.text for each in found.queries]
    assert found.problem is None


async def test_below_the_floor_nothing_is_better_than_noise() -> None:
    assert await texts(searcher(floor=0.99), "cheap brown rice") == []
    assert await texts(searcher(), "volcano") == []


async def test_at_most_n_s_similar_queries_are_looked_up_in_one_call() -> None:
    dictionary = KnownDictionary()

    await texts(searcher(dictionary=dictionary, neighbours=2, floor=-1), "some rice")

    assert [len(call) for call in dictionary.calls] == [1, 2]


@pytest.mark.alone
async def test_what_is_late_is_left_out_and_said() -> None:
    made = searcher(encoder=WordEncoder(delay_s=0.5))

    started = time.monotonic()
    found = await made.search("rice", timeout_s=0.05)

    assert time.monotonic() - started < 0.3
    assert [each.text for each in found.queries] == ["brown rice", "rice cooker"]
    assert found.problem == "late"
    await made.close()


@pytest.mark.parametrize(
    "broken",
    [{"dictionary": KnownDictionary(RetrievalError("Away."))}, {"encoder": WordEncoder(failure=RuntimeError("torch"))}],
)
async def test_what_is_away_is_left_out_and_said(broken: dict[str, Any]) -> None:
    found = await searcher(**broken).search("rice", timeout_s=5)

    assert found.problem == "away"
    assert len(found.queries) == (0 if "dictionary" in broken else 2)


async def test_those_that_wait_together_are_encoded_together() -> None:
    encoder = WordEncoder(delay_s=0.05)
    made = searcher(encoder=encoder)

    await asyncio.gather(*(texts(made, f"brown rice {number}") for number in range(40)))

    assert len(encoder.batches) <= 3
    assert sum(map(len, encoder.batches)) == 40


async def test_one_who_left_does_not_harm_those_who_wait() -> None:
    encoder = WordEncoder(delay_s=0.05)
    made = searcher(encoder=encoder)
    leaving = asyncio.create_task(texts(made, "brown rice 1"))
    staying = [asyncio.create_task(texts(made, f"brown rice {number}")) for number in range(2, 9)]
    await asyncio.sleep(0.01)

    leaving.cancel()

    assert all("rice cooker" in found for found in await asyncio.gather(*staying))


@pytest.mark.parametrize("typed", ["", "  ", "???", "\u200b", "\ud800"])
async def test_a_query_without_a_word_finds_nothing(typed: str) -> None:
    assert await texts(searcher(), typed) == []


def test_the_fakes_are_alike_where_words_are() -> None:
    (same, other) = WordEncoder().encode(["rice rice", "weather"])

    assert same @ WordEncoder().encode([match_key("RICE?")])[0] == pytest.approx(1.0)
    assert same @ other == 0
