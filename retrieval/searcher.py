"""The door of retrieval: for what was typed, the queries that people typed next.

It knows nothing about prompts, tasks or HTTP. All others enter this package here.
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrieval.dictionaries import Dictionary, NextQuery
from retrieval.score import CoQuery, sort_candidates
from service.contract.artifact import verify
from service.contract.errors import ArtifactError, RetrievalError
from service.contract.hardware import compute_alone
from service.contract.query_text import match_key, one_line, query_id

if TYPE_CHECKING:
    from retrieval.encoder import Encoder
    from retrieval.index import QueryIndex

__all__ = ["CoQuery", "Found", "SearchRule", "Searcher", "open_searcher"]

KIND = "cor"
_COMPARED = 100  # nearest queries whose similarity to what was typed is known


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchRule:
    """The numbers of GQR 3.3, step 2.

    Attributes:
        n: when fewer than so many queries followed the query itself, similar queries are looked at.
        neighbours: N_s, how many similar queries.
        floor: least cosine similarity of a similar query; below it nothing is better than noise.
        most: candidates returned.
    """

    n: int = 10
    neighbours: int = 30
    floor: float = 0.55
    most: int = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a search found, best first. `problem` says in a word what could not be asked."""

    queries: tuple[CoQuery, ...] = ()
    problem: str | None = None


class Searcher:
    """One build of retrieval, ready to be asked."""

    def __init__(
        self, version: str, encoder: "Encoder", index: "QueryIndex", dictionary: Dictionary, rule: SearchRule
    ) -> None:
        self.version = version
        self._encoder = encoder
        self._index = index
        self._dictionary = dictionary
        self._rule = rule
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="cor", initializer=compute_alone)
        self._waiting: list[tuple[str, asyncio.Future[Any]]] = []
        self._working: asyncio.Task[None] | None = None

    async def search(self, typed: str, *, timeout_s: float) -> Found:
        """The co-occurrence queries of `typed`, at the latest after `timeout_s`.

        GQR's rule: when fewer than n queries followed it, those that followed its N_s nearest logged queries are
        merged in. What is late or away is left out, and `problem` says so.
        """
        line = one_line(typed)
        if not match_key(line):
            return Found()
        exact: Sequence[NextQuery] = ()
        neighbours: list[tuple[float, Sequence[NextQuery]]] = []
        similarities: dict[int, float] = {}
        problem = None
        try:
            async with asyncio.timeout(timeout_s):
                (exact,) = await self._dictionary.next_queries([query_id(match_key(line))])
                if len(exact) < self._rule.n:
                    nearest = await self.nearest(line)
                    near = self._near(line, nearest)
                    entries = await self._dictionary.next_queries([i for i, _ in near])
                    neighbours = [(similarity, entry) for (_, similarity), entry in zip(near, entries, strict=True)]
                    similarities = dict(nearest)
        except TimeoutError:
            problem = "late"
        except RetrievalError:
            problem = "away"
        found = sort_candidates(line, exact, neighbours, similarities, most=self._rule.most)
        return Found(queries=found, problem=problem)

    def _near(self, line: str, nearest: list[tuple[int, float]]) -> list[tuple[int, float]]:
        itself = query_id(match_key(line))
        near = [(i, similarity) for i, similarity in nearest if i != itself and similarity >= self._rule.floor]
        return near[: self._rule.neighbours]

    async def nearest(self, line: str) -> list[tuple[int, float]]:
        """Ids and similarities of the nearest logged queries; all that wait are encoded as one batch."""
        future: asyncio.Future[list[tuple[int, float]]] = asyncio.get_running_loop().create_future()
        self._waiting.append((line, future))
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work())
        return await future

    async def _work(self) -> None:
        while self._waiting:
            batch, self._waiting = [each for each in self._waiting if not each[1].cancelled()], []
            if not batch:
                return
            try:
                lines = [line for line, _ in batch]
                answers: list[Any] = await asyncio.get_running_loop().run_in_executor(
                    self._thread, self._nearest_of, lines
                )
            except Exception as error:  # torch's and FAISS's own; those who wait must hear of it
                answers = [RetrievalError(f"Similar queries could not be found: {type(error).__name__}.")] * len(batch)
            for (_, future), answer in zip(batch, answers, strict=True):
                if not future.done():
                    _settle(future, answer)

    def _nearest_of(self, lines: list[str]) -> list[list[tuple[int, float]]]:
        compared = max(_COMPARED, self._rule.neighbours + 1)
        return self._index.nearest(self._encoder.encode([match_key(line) for line in lines]), compared)

    async def close(self) -> None:
        """Let go of everything; searches under way are given up."""
        if self._working is not None:
            self._working.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)
        await self._dictionary.close()


def _settle(future: asyncio.Future[Any], answer: Any) -> None:
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)


async def open_searcher(
    directory: Path, rule: SearchRule, *, redis_url: str | None = None, redis_timeout_s: float = 0.05
) -> Searcher:
    """Open a build that `nextquery retrieval build` published; its dictionary is in Redis where a URL is given.

    Raises:
        ArtifactError: It is no build, something in it is damaged, or its parts are of different builds.
        RetrievalError: Redis is away, or does not have this build.
    """
    from retrieval.dictionaries.mapped import MappedDictionary  # a service without a build needs none of these
    from retrieval.dictionaries.redis import open_redis_dictionary
    from retrieval.encoder import Encoder
    from retrieval.index import QueryIndex

    manifest = await asyncio.to_thread(verify, directory)
    if manifest.get("kind") != KIND:
        raise ArtifactError(f"{directory} is no co-occurrence build. `nextquery retrieval build` makes one.")
    version = str(manifest["version"])
    encoder = await asyncio.to_thread(Encoder, directory / "encoder")
    index = await asyncio.to_thread(QueryIndex.load, directory / "index.faiss")
    mapped = MappedDictionary(directory / "dictionary.lmdb")
    if (index.count, index.dimension, mapped.build) != (manifest["queries"], encoder.dimension, version):
        await mapped.close()
        raise ArtifactError(
            f"The parts of {directory} are of different builds: the index has {index.count} queries of "
            f"{index.dimension} numbers, the encoder writes {encoder.dimension}, the dictionary is of {mapped.build!r}. "
            "Build it again: `nextquery retrieval build`."
        )
    if redis_url is None:
        return Searcher(version, encoder, index, mapped, rule)
    await mapped.close()
    return Searcher(version, encoder, index, await open_redis_dictionary(redis_url, version, redis_timeout_s), rule)
