"""Evaluates retrieval on held-out sessions: how often the true next query is among the candidates.

It knows nothing about how a build is made; it asks one, and three simpler ways beside it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from retrieval.searcher import Searcher
from service.contract.query_text import match_key

CUTS = (1, 3, 10)
_AT_ONCE = 64
_RESAMPLES = 1000
Suggest = Callable[[str], Awaitable[Sequence[str]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """One true step of a held-out session. `is_unseen`: nothing followed `query` in what was learnt from."""

    session: int
    query: str
    next_query: str
    is_unseen: bool
    is_to_hub: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Figures by method; None where there is nothing to measure.

    `gain_nonhub`: ours minus raw frequency in hit@10 on targets that are no hubs, and its 95 % interval.
    """

    sessions: int
    transitions: int
    unseen: int
    methods: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    gain_nonhub: tuple[float, float, float] = (0.0, 0.0, 0.0)


def transitions_of(sessions: Sequence[Sequence[str]], known: set[str], hubs: set[str]) -> list[Transition]:
    """Every step of the sessions. `known`: match keys that something followed; `hubs`: those that follow everything."""
    return [
        Transition(session=number, query=a, next_query=b, is_unseen=a not in known, is_to_hub=b in hubs)
        for number, session in enumerate(sessions)
        for a, b in pairwise(session)
    ]


async def evaluate(
    transitions: Sequence[Transition], searcher: Searcher, others: Mapping[str, Suggest], *, timeout_s: float = 60.0
) -> Evaluation:
    """Coverage and hit@1, 3, 10 of `searcher` ("cor") and of the `others`, by name; "frequency" must be among them."""

    async def ours(query: str) -> Sequence[str]:
        found = await searcher.search(query, timeout_s=timeout_s)
        return [each.text for each in found.queries]

    lists = {name: await _ask(suggest, transitions) for name, suggest in {"cor": ours, **others}.items()}
    ranks = {name: _ranks(found, transitions) for name, found in lists.items()}
    return Evaluation(
        sessions=len({t.session for t in transitions}),
        transitions=len(transitions),
        unseen=sum(t.is_unseen for t in transitions),
        methods={name: _figures(lists[name], ranks[name], transitions) for name in lists},
        gain_nonhub=_gain(ranks["cor"], ranks["frequency"], transitions),
    )


async def _ask(suggest: Suggest, transitions: Sequence[Transition]) -> list[list[str]]:
    """What is suggested for each transition, as match keys, `CUTS[-1]` at most."""
    answers: dict[str, list[str]] = {}
    queries = list(dict.fromkeys(t.query for t in transitions))
    for start in range(0, len(queries), _AT_ONCE):
        batch = queries[start : start + _AT_ONCE]
        for query, found in zip(batch, await asyncio.gather(*map(suggest, batch)), strict=True):
            answers[query] = [match_key(text) for text in found][: CUTS[-1]]
    return [answers[t.query] for t in transitions]


def _ranks(lists: Sequence[Sequence[str]], transitions: Sequence[Transition]) -> Any:
    """Position of the true next query from 1, (N,); infinite where it is not there."""
    found = [
        each.index(t.next_query) + 1 if t.next_query in each else np.inf
        for each, t in zip(lists, transitions, strict=True)
    ]
    return np.array(found, float)


def _figures(lists: Sequence[Sequence[str]], ranks: Any, transitions: Sequence[Transition]) -> dict[str, float | None]:
    unseen = np.array([t.is_unseen for t in transitions], bool)
    nonhub = ~np.array([t.is_to_hub for t in transitions], bool)
    figures: dict[str, float | None] = {"coverage": _mean([len(each) > 0 for each in lists])}
    for name, chosen in {"": np.ones(len(ranks), bool), "_unseen": unseen, "_nonhub": nonhub}.items():
        figures |= {f"hit{cut}{name}": _mean(ranks[chosen] <= cut) for cut in CUTS}
    return figures


def _gain(ours: Any, theirs: Any, transitions: Sequence[Transition]) -> tuple[float, float, float]:
    """Difference in hit@10 on targets that are no hubs, and its 95 % interval by resampling whole sessions."""
    nonhub = ~np.array([t.is_to_hub for t in transitions], bool)
    sessions = np.array([t.session for t in transitions], int)[nonhub]
    gains = (ours[nonhub] <= CUTS[-1]).astype(float) - (theirs[nonhub] <= CUTS[-1])
    if not len(gains):
        return 0.0, 0.0, 0.0
    _, which = np.unique(sessions, return_inverse=True)
    sums, sizes = np.bincount(which, gains), np.bincount(which)
    drawn = np.random.default_rng(0).integers(len(sums), size=(_RESAMPLES, len(sums)))
    low, high = np.quantile(sums[drawn].sum(1) / sizes[drawn].sum(1), [0.025, 0.975])
    return round(float(gains.mean()), 4), round(float(low), 4), round(float(high), 4)


def _mean(values: Any) -> float | None:
    return round(float(np.mean(values)), 4) if len(values) else None
