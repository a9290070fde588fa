"""The nouns that both halves speak of, as frozen values.

Nothing here reads, writes, validates user input or knows a database.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class EventSource(StrEnum):
    """Where a piece of long-term history comes from (TPPO 3.1)."""

    SEARCH = "search"
    CLICK = "click"
    PURCHASE = "purchase"
    VISIT = "visit"


class ServedBy(StrEnum):
    """The rung of the ladder that wrote a list, best first."""

    MODEL = "model"
    COR = "cor"
    POPULAR = "popular"
    NONE = "none"


class Origin(StrEnum):
    """How a query came into the search log; mining takes typed and import only."""

    TYPED = "typed"
    CLICKED = "clicked"
    IMPORT = "import"


class ClickKind(StrEnum):
    """What happened to a list. `SEEN`, `DISMISS` and a typed `SUBMIT` concern the whole list (position 0)."""

    SEEN = "seen"
    CLICK = "click"
    DISMISS = "dismiss"
    SUBMIT = "submit"


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryEvent:
    """One thing a person did in the past, any session."""

    source: EventSource
    text: str
    at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptContext:
    """What a prompt is written from: the query and its side information (GQR 3.1).

    Lists are oldest first, except `documents` and `co_queries`, which are best first.
    """

    n: int
    query: str | None = None
    session: tuple[str, ...] = ()
    history: tuple[HistoryEvent, ...] = ()
    answer: str | None = None
    documents: tuple[str, ...] = ()
    co_queries: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedList:
    """What a completion said. `queries` is empty only when `problem` says why.

    `spans`: the characters of the completion's text that each query was read from, [start, end), same length.
    """

    queries: tuple[str, ...]
    spans: tuple[tuple[int, int], ...] = ()
    texts: Mapping[str, str] = field(default_factory=dict)
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One query that could be shown.

    `logprob`: sum of its tokens' log-probabilities under the policy's raw distribution, None where none is known.
    `propensity`: probability that it stood at its position, None for a generated list (it cannot be computed).
    """

    text: str
    source: ServedBy
    logprob: float | None = None
    score: float | None = None
    propensity: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Slate:
    """The list that is shown (the papers' RQ), with the auxiliary texts around it and how it was made."""

    candidates: tuple[Candidate, ...]
    texts: Mapping[str, str] = field(default_factory=dict)
    served_by: ServedBy
    degraded_reason: str | None = None
