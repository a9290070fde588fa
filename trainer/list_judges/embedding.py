"""The quality of lists by sentence embeddings: the judge that needs no other service.

It knows nothing about rubrics. What says the same is decided as the filter of overlapping lists decides it.

Cosines of all-MiniLM-L6-v2 with what was asked, on the catalogue (5 %, 50 % and 95 % of 600 to 900 queries):

    queries of an annotated list of `suggest`             .45   .69   .90
    a random ask about the same thing                     .42   .60   .79
    a random ask about another thing of the same kind    -.01   .13   .35
    queries of another list                              -.07   .04   .18
    snippets of an annotated list of `snippets`           .03   .14   .31
    snippets of another list                             -.01   .11   .25

So `HIGH` begins where an annotated query is likelier than a random one about the same thing, and `MODERATE` where hardly any
query about another thing comes. Snippets fit almost any request, and their cosine says nothing: they are not rated.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from service.contract.query_text import match_key
from service.contract.settings import Settings
from service.contract.tasks import get_task
from service.contract.types import PromptContext
from trainer.judges import OverlapJudge, Similar
from trainer.judges.embedding import EmbeddingJudge, installed_embedder
from trainer.list_judges import Pair, Rating, Relatedness, Repeat

_HIGH, _MODERATE = 0.65, 0.35


class EmbeddingListJudge:
    """Judges by the vectors of `similar`."""

    name = "embedding"
    spent: Mapping[str, int] = {}

    def __init__(self, similar: Similar, overlap: OverlapJudge | None = None) -> None:
        """`overlap`: what says whether two texts say the same; by default by the same vectors."""
        self._similar, self._overlap = similar, overlap or EmbeddingJudge(similar)

    def ratings(self, pairs: Sequence[Pair]) -> list[tuple[Rating, Rating] | None]:
        """See `ListJudge`; it always comes to a verdict."""
        lists = [(pair.task, pair.context, queries) for pair in pairs for queries in (pair.first, pair.second)]
        distinct = list(dict.fromkeys(lists))
        related, repeats = self._related(distinct), self._repeats(distinct)
        rating = {each: Rating(*both) for each, both in zip(distinct, zip(related, repeats, strict=True), strict=True)}
        found = [rating[each] for each in lists]
        return list(zip(found[::2], found[1::2], strict=True))

    def _related(self, lists: Sequence["_List"]) -> list[tuple[Relatedness, ...]]:
        rated = [("" if get_task(task).auxiliary[1:] else _asked(context), queries) for task, context, queries in lists]
        texts = list(dict.fromkeys(match_key(text) for asked, queries in rated if asked for text in (asked, *queries)))
        vector = dict(zip(texts, self._similar.vectors(texts), strict=True)) if texts else {}

        def level(query: str, asked: str) -> Relatedness:
            cosine = _cosine(vector[match_key(query)], vector[match_key(asked)])
            return Relatedness((cosine >= _MODERATE) + (cosine >= _HIGH))

        return [tuple(level(query, asked) for query in queries) if asked else () for asked, queries in rated]

    def _repeats(self, lists: Sequence["_List"]) -> list[tuple[frozenset[Repeat], ...]]:
        """What each query says again, all comparisons asked for in one batch."""
        questions = [question for each in lists for question in _questions(each)]
        verdicts = iter(self._overlap.overlaps_many([(context, [queries]) for _, _, context, queries in questions]))
        found: list[list[set[Repeat]]] = [[set() for _ in queries] for _, _, queries in lists]
        for number, each in enumerate(lists):
            for position, kind, _, _ in _questions(each):
                if next(verdicts)[0]:
                    found[number][position].add(kind)
        return [tuple(frozenset(each) for each in queries) for queries in found]


_List = tuple[str, PromptContext, tuple[str, ...]]
_Vector = NDArray[np.float32]


def create(_settings: Settings) -> EmbeddingListJudge:
    """The judge with the installed model."""
    return EmbeddingListJudge(installed_embedder())


def _questions(listed: _List) -> Iterator[tuple[int, Repeat, PromptContext, tuple[str, ...]]]:
    """What to ask about each query: its position, what it may repeat, and a list that overlaps where it does."""
    _, context, queries = listed
    asked = PromptContext(n=1, query=context.query, session=context.session[-1:])
    for position, query in enumerate(queries):
        yield position, "query", asked, (query,)
        if context.answer:
            yield position, "answer", PromptContext(n=1, answer=context.answer), (query,)
    for (_, earlier), (position, later) in combinations(enumerate(queries), 2):
        yield position, "list", PromptContext(n=2), (earlier, later)


def _asked(context: PromptContext) -> str:
    history = [event.text for event in context.history]
    return next((text for text in (context.query, *context.session[::-1], *history[::-1]) if text), "")


def _cosine(one: _Vector, other: _Vector) -> float:
    return float(one @ other)
