"""Events as they come in: each ends stored, duplicate, quarantined or refused, and in one of them only.

It knows nothing about HTTP. A click whose impression row is not visible yet is taken: its token is proof enough.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from service.contract.errors import TokenRefused
from service.contract.query_text import match_key, one_line
from service.contract.tables import clicks, searches
from service.contract.types import ClickKind, Origin
from service.events.click_token import ClickClaims, TokenSigner
from service.events.group_commit import GroupCommit, Outcome, Write
from service.events.quarantine import Quarantine

_ENDPOINT = "/click"


class Ending(StrEnum):
    """The one place where an event ends (RELIABILITY.md I2)."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    QUARANTINED = "quarantined"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """One event as it was sent. `raw` goes to the quarantine if the event cannot be believed."""

    click_token: str
    kind: ClickKind
    position: int
    raw: bytes
    query: str | None = None
    client_at: datetime | None = None
    user_id: str | None = None
    session_id: str | None = None
    locale: str = "en"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Where an event ended, and why when it was not stored."""

    ending: Ending
    reason: str | None = None


class ClickIntake:
    """Verifies, stores and counts events; nothing is acknowledged before its commit."""

    def __init__(self, writer: GroupCommit, signer: TokenSigner, quarantine: Quarantine) -> None:
        self._writer = writer
        self._signer = signer
        self._quarantine = quarantine

    async def take(self, events: Sequence[Received]) -> list[Verdict]:
        """What became of each event, all of them durable.

        Raises:
            DatabaseError: The database is away; nothing was acknowledged.
            Overloaded: The writer's queue is full; nothing was acknowledged.
        """
        writes: list[Write] = []
        verdicts: list[Verdict | int] = []  # an int is the index of the write that decides
        for event in events:
            try:
                claims = self._believe(event)
            except TokenRefused as refusal:
                verdicts.append(Verdict(Ending.QUARANTINED, refusal.reason))
                row = self._quarantine.row(endpoint=_ENDPOINT, reason=refusal.reason, body=event.raw)
                writes += [row] if row else []
                continue
            verdicts.append(len(writes))
            writes += _writes(event, claims)
        outcomes = await self._writer.write_many(writes) if writes else []
        return [_verdict(outcomes[v]) if isinstance(v, int) else v for v in verdicts]

    def _believe(self, event: Received) -> ClickClaims:
        claims = self._signer.verify(event.click_token, int(time.time()))
        if event.position > claims.n_shown:
            raise TokenRefused("never_shown", "There was no query at this position in the list that was shown.")
        return claims


def _verdict(outcome: Outcome) -> Verdict:
    if outcome is Outcome.REFUSED:
        return Verdict(Ending.REFUSED, "unstorable")
    return Verdict(Ending.STORED if outcome is Outcome.STORED else Ending.DUPLICATE)


def _writes(event: Received, claims: ClickClaims) -> list[Write]:
    now = datetime.now(UTC)
    row: dict[str, Any] = {
        "impression_id": claims.impression_id,
        "position": event.position,
        "kind": event.kind.value,
        "at": now,
        "client_at": event.client_at,
        "tenant": claims.tenant,
        "task": claims.task,
        "arm": claims.arm,
        "policy_version": claims.policy_version,
        "query": one_line(event.query) if event.query else None,
    }
    writes = [Write(table=clicks.name, row=row)]
    if event.kind is ClickKind.SUBMIT and event.query and match_key(event.query):
        writes.append(Write(table=searches.name, row=_search(event, claims, now)))
    return writes


def _search(event: Received, claims: ClickClaims, now: datetime) -> dict[str, Any]:
    query = one_line(event.query or "")
    return {
        "search_id": f"{claims.impression_id}-{event.position}",  # the same event twice is one search
        "at": now,
        "tenant": claims.tenant,
        "user_id": event.user_id,
        "session_id": event.session_id,
        "query": query,
        "match_key": match_key(query),
        "locale": event.locale,
        "origin": (Origin.CLICKED if event.position else Origin.TYPED).value,
        "impression_id": claims.impression_id,
    }
