"""Words judged by sentence embeddings: the judge that needs no other service.

It knows nothing about needs or clicks. A query is near to the history as a whole; a word of it is relevant when the query
without the word is less near. A word without which it is as near as before is as relevant as the query is.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.contract.query_text import match_key
from service.contract.settings import Settings
from service.contract.types import PromptContext
from trainer.judges import Similar
from trainer.judges.embedding import installed_embedder
from trainer.word_judges import Asked, GradingJudge, Judgement, mostly, without_each

_NEWEST = 10  # texts of a history
_LEAD = 0.01  # of a cosine: less is nothing that anybody would see

Vectors = NDArray[np.float32]


class EmbeddingWordJudge(GradingJudge):
    """Judges by the vectors of `similar`."""

    name = "embedding"

    def __init__(self, similar: Similar, *, near: float = 0.55, loses: float = 0.04, gains: float = 0.08) -> None:
        """Cosines of all-MiniLM-L6-v2, chosen on 304 words labelled by hand, of which .76 are relevant: .91 are judged alike.

        Args:
            similar: gives the vectors.
            near: cosine from which a query is relevant to the nearest text of the history.
            loses: what a query loses at least without a word that is relevant by itself.
            gains: what it gains at least without a word that is not.
        """
        super().__init__(enough=near, lead=_LEAD)
        self._similar, self._near, self._loses, self._gains = similar, near, loses, gains

    def judge(self, asked: Sequence[Asked]) -> list[Judgement | None]:
        """See `WordJudge`."""
        vectors = self._vectors([text for each in asked for text in _texts(each)])
        return [self._judged(each, vectors) for each in asked]

    def grades(self, asked: Sequence[Asked]) -> list[float]:
        """The mean of how near each query is to the history; 0 for none."""
        vectors = self._vectors([text for each in asked for text in _whole_texts(each)])
        found = []
        for each in asked:
            known = [vectors[text] for text in _known(each.context)]
            near = [_nearest(vectors[match_key(query)], known) for query in each.queries]
            found.append(sum(near) / max(1, len(near)))
        return found

    def _vectors(self, texts: Sequence[str]) -> dict[str, Vectors]:
        distinct = list(dict.fromkeys(texts))
        return dict(zip(distinct, self._similar.vectors(distinct), strict=True)) if distinct else {}

    def _judged(self, asked: Asked, vectors: dict[str, Vectors]) -> Judgement:
        known = [vectors[text] for text in _known(asked.context)]
        found, near = [], []
        for query, words in zip(asked.queries, asked.words, strict=True):
            whole = _nearest(vectors[match_key(query)], known)
            near.append(whole >= self._near)
            without = [_nearest(vectors[text], known) for text in _without_each(words)]
            found.append(tuple(self._is_relevant(whole - rest, near[-1]) for rest in without))
        return Judgement(tuple(found), mostly(near))

    def _is_relevant(self, lost: float, near: bool) -> bool:
        return lost >= self._loses or (near and lost > -self._gains)


def create(_settings: Settings) -> EmbeddingWordJudge:
    """The judge with the installed model."""
    return EmbeddingWordJudge(installed_embedder())


def _texts(asked: Asked) -> list[str]:
    return [*_whole_texts(asked), *(text for words in asked.words for text in _without_each(words))]


def _whole_texts(asked: Asked) -> list[str]:
    return [*_known(asked.context), *(match_key(query) for query in asked.queries)]


def _known(context: PromptContext) -> list[str]:
    """What the person searched for, clicked, bought or visited, the newest last."""
    texts = [*(event.text for event in context.history), *context.session, context.query or ""]
    return [key for text in texts[-_NEWEST:] if (key := match_key(text))]


def _without_each(words: Sequence[str]) -> list[str]:
    return [match_key(text) for text in without_each(words)]


def _nearest(vector: Vectors, known: Sequence[Vectors]) -> float:
    return max((float(vector @ other) for other in known), default=0.0)
