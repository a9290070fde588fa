"""How candidates are sorted: similarity x normalised count x recency.

It knows nothing about where neighbours and entries come from.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from retrieval.dictionaries import NextQuery
from service.contract.query_text import match_key, query_id

# Chosen on sessions that the reported evaluation does not use; flat around these values (deploy/decisions/0008).
_OF_NEIGHBOUR = 12.0  # power of the similarity between what was typed and the logged query: .8 counts .07 of 1
_OF_CANDIDATE = 8.0  # power of the similarity between what was typed and the candidate


@dataclass(frozen=True, slots=True)
class CoQuery:
    """A co-occurrence query Q_c^q. `source`: people typed it after this very query, or after a similar one."""

    text: str
    score: float
    source: Literal["exact", "semantic"]


def sort_candidates(
    typed: str,
    exact: Sequence[NextQuery],
    neighbours: Iterable[tuple[float, Sequence[NextQuery]]],
    similarities: Mapping[int, float],
    *,
    most: int,
) -> tuple[CoQuery, ...]:
    """The `most` best of what followed the query itself and its neighbours, merged, best first (GQR 3.3, step 2).

    score = sum over the logged queries of similarity ** 12 x weight, times the candidate's own similarity ** 8.
    `weight` is the normalised, damped count x recency of `retrieval/mining/weight.py`; the query itself has
    similarity 1. A candidate that is not among the nearest has the similarity of the farthest of them.

    Args:
        typed: what was typed; it is never a candidate.
        exact: what followed it.
        neighbours: (similarity, what followed) of each logged query that is near.
        similarities: of the nearest logged queries, by query id.
        most: length of the result.
    """
    itself = match_key(typed)
    scores: dict[str, float] = {}
    surfaces: dict[str, str] = {}
    exactly = {match_key(each.text) for each in exact}
    for similarity, entry in [(1.0, exact), *neighbours]:
        for each in entry:
            key = match_key(each.text)
            surfaces.setdefault(key, each.text)
            scores[key] = scores.get(key, 0.0) + similarity**_OF_NEIGHBOUR * each.weight
    scores.pop(itself, None)
    farthest = min(similarities.values(), default=1.0)
    for key in scores:
        scores[key] *= max(0.0, similarities.get(query_id(key), farthest)) ** _OF_CANDIDATE
    best = sorted(scores, key=lambda key: (-scores[key], key))[:most]
    return tuple(CoQuery(surfaces[key], scores[key], "exact" if key in exactly else "semantic") for key in best)
