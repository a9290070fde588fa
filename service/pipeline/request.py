"""What one request asks for, and what one reply carries, free of HTTP.

It knows nothing about engines or databases.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from service.contract.prompt import UnifiedTask
from service.contract.tables import DEFAULT_ARM, DEFAULT_TENANT
from service.contract.types import HistoryEvent, Origin, Slate


@dataclass(frozen=True, slots=True, kw_only=True)
class RecommendRequest:
    """One call of /recommend, validated. `deadline_s`: seconds from its arrival to its reply.

    `has_own_deadline`: the product asked for that deadline, so that no experiment changes it.
    `arm`, `changes`: what an experiment makes of it; see `service.experiments.definitions.Changes`.
    """

    task: UnifiedTask
    n: int
    deadline_s: float
    has_own_deadline: bool = False
    query: str | None = None
    user_id: str | None = None
    session_id: str | None = None
    session: tuple[str, ...] = ()
    history: tuple[HistoryEvent, ...] = ()
    answer: str | None = None
    documents: tuple[str, ...] = ()
    locale: str = "en"
    track: bool = True
    origin: Origin = Origin.TYPED
    tenant: str = DEFAULT_TENANT
    arm: str = DEFAULT_ARM
    changes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Trace:
    """How a list came about; filled on the way, stored with the impression, shown with `explain`."""

    policy_version: str | None = None
    cor_version: str | None = None
    cor_problem: str | None = None
    ctr_version: str | None = None
    ctr_problem: str | None = None
    prompt_fingerprint: str | None = None
    prompt_text: str | None = None
    prompt_tokens: int = 0
    prompt_dropped: tuple[str, ...] = ()
    sampling: dict[str, Any] = field(default_factory=dict)
    completion: str | None = None
    finish_reason: str | None = None
    refused: dict[str, int] = field(default_factory=dict)
    timings_ms: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """The reply. `recorded` is False when the database did not commit the impression inside the deadline."""

    impression_id: str
    slate: Slate
    click_token: str
    recorded: bool
    versions: Mapping[str, str | None]
    trace: Trace
