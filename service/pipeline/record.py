"""The impression row with everything that learning needs, and the token that clicks on it carry.

It knows nothing about HTTP or how lists are made.
"""

import asyncio
import time
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from service.contract.errors import DatabaseError, Overloaded
from service.contract.logged_context import as_logged
from service.contract.query_text import match_key, one_line
from service.contract.tables import impressions, searches
from service.contract.types import PromptContext, Slate
from service.events.click_token import ClickClaims, TokenSigner
from service.events.group_commit import GroupCommit, Outcome, Write
from service.experiments.assignment import bucket_of
from service.pipeline.request import RecommendRequest, Trace

_GRACE_S = 0.02  # a commit that is under way when the deadline comes may still finish


class Recorder:
    """Writes impressions and tracked queries, durable before the reply."""

    def __init__(self, writer: GroupCommit, signer: TokenSigner) -> None:
        self._writer = writer
        self._signer = signer

    def sign(self, impression_id: str, request: RecommendRequest, slate: Slate, trace: Trace) -> str:
        """The click token of the list."""
        return self._signer.sign(
            ClickClaims(
                impression_id=impression_id,
                tenant=request.tenant,
                task=request.task.name,
                arm=request.arm,
                policy_version=trace.policy_version,
                ctr_version=trace.ctr_version,
                cor_version=trace.cor_version,
                n_shown=len(slate.candidates),
                expires_at=self._signer.expiry(),
            )
        )

    async def record(
        self,
        impression_id: str,
        request: RecommendRequest,
        context: PromptContext,
        slate: Slate,
        trace: Trace,
        *,
        until: float,
    ) -> bool:
        """True when the impression is committed; False when the database did not manage it by `until`.

        A late commit still happens: the writer keeps the row.
        """
        writes = [Write(table=impressions.name, row=_impression(impression_id, request, context, slate, trace))]
        if request.track and request.query and match_key(request.query):
            writes.append(Write(table=searches.name, row=_search(impression_id, request)))
        try:
            async with asyncio.timeout(max(0.0, until - time.monotonic()) + _GRACE_S):
                outcomes = await self._writer.write_many(writes)
        except (TimeoutError, DatabaseError, Overloaded):
            return False
        return outcomes[0] is Outcome.STORED


def _impression(
    impression_id: str, request: RecommendRequest, context: PromptContext, slate: Slate, trace: Trace
) -> dict[str, Any]:
    return {
        "impression_id": impression_id,
        "at": datetime.now(UTC),
        "tenant": request.tenant,
        "task": request.task.name,
        "user_id": request.user_id,
        "session_id": request.session_id,
        "query": context.query,
        "locale": request.locale,
        "context": as_logged(context),
        "prompt_fingerprint": trace.prompt_fingerprint or "",
        "prompt_tokens": trace.prompt_tokens,
        "arm": request.arm,
        "policy_version": trace.policy_version,
        "ctr_version": trace.ctr_version,
        "cor_version": trace.cor_version,
        "sampling": trace.sampling,
        "candidates": [
            {**asdict(candidate), "source": candidate.source.value, "position": position}
            for position, candidate in enumerate(slate.candidates, 1)
        ],
        "texts": dict(slate.texts),
        "n_shown": len(slate.candidates),
        "served_by": slate.served_by.value,
        "degraded_reason": slate.degraded_reason,
        "timings": trace.timings_ms,
        "unit_bucket": bucket_of(request.user_id or request.session_id or impression_id),
        "latency_ms": trace.timings_ms.get("list"),
        "n_repeated": trace.refused.get("repeated", 0),
        "n_chars": sum(len(candidate.text) for candidate in slate.candidates),
    }


def _search(impression_id: str, request: RecommendRequest) -> dict[str, Any]:
    query = one_line(request.query or "")
    return {
        "search_id": impression_id,
        "at": datetime.now(UTC),
        "tenant": request.tenant,
        "user_id": request.user_id,
        "session_id": request.session_id,
        "query": query,
        "match_key": match_key(query),
        "locale": request.locale,
        "origin": request.origin.value,
        "impression_id": impression_id,
    }
