"""Which partial lists a query-level beam search keeps, and which random ones it rejects; pure arithmetic.

It knows nothing about policies or predictors. Diversity: Vijayakumar et al., diverse beam search (GQR appendix C).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ctr.predictor import Reward
from service.contract.query_text import match_key

_TERM = re.compile(r"\w+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Beam:
    """A list so far. `token_ids`: prompt and response, without the separator at its end. `ended`: it does not grow."""

    token_ids: tuple[int, ...]
    reward: Reward
    queries: tuple[str, ...] = ()
    ended: bool = False

    @property
    def keys(self) -> tuple[str, ...]:
        """The form under which two lists are the same."""
        return tuple(match_key(query) for query in self.queries)

    def plus(self, query: str, p: float, token_ids: tuple[int, ...], *, ended: bool) -> "Beam":
        """The list with one more query, whose click probability is `p`; `token_ids` are those of the new list."""
        return Beam(
            token_ids=token_ids, reward=self.reward.plus(p), queries=(*self.queries, query), ended=ended or self.ended
        )

    def closed(self) -> "Beam":
        """The same list, which does not grow any more."""
        return replace(self, ended=True)


def select(pools: Sequence[Sequence[Beam]], k: int, *, width: int, diversity: float) -> list[list[Beam]]:
    """The `width` best beams of the pool of each group, best first (Algorithm 1, line 15).

    Groups choose one after another. Each loses `diversity` times the share of terms that its k-th query has in common
    with each k-th query that an earlier group chose: the Hamming diversity of diverse beam search, with terms for
    tokens. No list is chosen twice. One group is the plain beam search.
    """
    chosen: list[list[Beam]] = []
    for pool in pools:
        earlier = [beam for group in chosen for beam in group]
        taken = {beam.keys for beam in earlier}
        others = [beam.queries[k - 1] for beam in earlier if len(beam.queries) >= k]
        fresh = [beam for beam in pool if beam.keys not in taken]
        chosen.append(sorted(fresh, key=lambda beam: _loss(beam, k, others, diversity))[:width])
    return chosen


def lowest(lists: Sequence[Sequence[str]], rewards: Sequence[float], count: int, *, diversity: float) -> list[int]:
    """Indices of the `count` lists with the lowest rewards, worst first (Algorithm 1, line 24).

    Taken one by one; each is charged `diversity` times the share of terms that it has in common with each taken one.
    """
    left, taken = list(range(len(lists))), list[int]()
    texts = [" ".join(queries) for queries in lists]
    while left and len(taken) < count:
        charges = {i: diversity * sum(overlap(texts[i], texts[j]) for j in taken) if diversity else 0.0 for i in left}
        taken.append(min(left, key=lambda i: rewards[i] + charges[i]))
        left.remove(taken[-1])
    return taken


def overlap(one: str, other: str) -> float:
    """Share of the terms of two texts that both have (Jaccard), 0 to 1."""
    mine, its = set(_TERM.findall(one.casefold())), set(_TERM.findall(other.casefold()))
    return len(mine & its) / len(mine | its) if mine or its else 1.0


def _loss(beam: Beam, k: int, others: Sequence[str], diversity: float) -> float:
    if not diversity or len(beam.queries) < k:
        return -beam.reward.value
    return diversity * sum(overlap(beam.queries[k - 1], other) for other in others) - beam.reward.value
