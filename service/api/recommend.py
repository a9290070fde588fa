"""POST /recommend: a body in, a list out.

It knows nothing about how lists are made.
"""

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from service.api.body import documented, read_body
from service.api.raw_route import RawRoute
from service.api.schemas import Explanation, RecommendBody, RecommendReply, ShownQuery, TaskName
from service.contract.query_text import one_line
from service.contract.tasks import all_tasks
from service.contract.types import HistoryEvent, Origin
from service.pipeline.request import Recommendation, RecommendRequest
from service.runtime import Runtime

router = APIRouter(route_class=RawRoute)
_CLIENT_LEFT = 499  # nginx's number; nobody reads it


@router.post("/recommend", **documented((RecommendBody,), {200: RecommendReply}, "The list to show now."))
async def recommend(request: Request) -> Response:
    """The queries that the person is most likely to click next, always inside the deadline."""
    body = RecommendBody.model_validate_json(await read_body(request))
    runtime: Runtime = request.app.state.runtime
    work = asyncio.ensure_future(runtime.recommender.recommend(_to_request(body, runtime.deadline_s)))
    if not await _finished_before_client_left(request, work):
        return Response(status_code=_CLIENT_LEFT)
    made = work.result()
    slate = made.slate
    request.app.state.metrics.served(
        body.task.value, slate.served_by.value, slate.degraded_reason, recorded=made.recorded
    )
    return Response(
        _reply(body, made).model_dump_json(exclude=None if body.explain else {"explain"}), media_type="application/json"
    )


async def _finished_before_client_left(request: Request, work: "asyncio.Future[Recommendation]") -> bool:
    """True when `work` is done; False when the client left first, and then `work` is cancelled."""
    leaving = asyncio.ensure_future(request.receive())  # the body is read: only a disconnect can come
    both: list[asyncio.Future[Any]] = [work, leaving]
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        return work.done()
    finally:
        leaving.cancel()
        if not work.done():
            work.cancel()


def _to_request(body: RecommendBody, default_deadline_s: float) -> RecommendRequest:
    task = all_tasks()[body.task.value]
    return RecommendRequest(
        task=task,
        n=body.n or task.default_n,
        deadline_s=body.timeout_ms / 1000 if body.timeout_ms else default_deadline_s,
        has_own_deadline=body.timeout_ms is not None,
        query=one_line(body.query) or None if body.query else None,
        user_id=body.user_id,
        session_id=body.session_id,
        session=tuple(body.session),
        history=tuple(HistoryEvent(source=item.source, text=item.text, at=item.at) for item in body.history),
        answer=body.answer,
        documents=tuple(body.documents),
        locale=body.locale.replace("_", "-").lower(),
        track=body.track,
        origin=Origin(body.origin),
    )


def _reply(body: RecommendBody, made: Recommendation) -> RecommendReply:
    slate, trace = made.slate, made.trace
    return RecommendReply(
        impression_id=made.impression_id,
        task=TaskName(body.task.value),
        queries=[
            ShownQuery(text=c.text, position=position, source=c.source, score=c.score, logprob=c.logprob)
            for position, c in enumerate(slate.candidates, 1)
        ],
        texts=dict(slate.texts),
        served_by=slate.served_by,
        degraded_reason=slate.degraded_reason,
        recorded=made.recorded,
        versions=dict(made.versions),
        click_token=made.click_token,
        timings_ms=trace.timings_ms,
        explain=Explanation(
            prompt=trace.prompt_text,
            prompt_tokens=trace.prompt_tokens,
            prompt_dropped=list(trace.prompt_dropped),
            cor_problem=trace.cor_problem,
            ctr_problem=trace.ctr_problem,
            completion=trace.completion,
            finish_reason=trace.finish_reason,
            sampling=trace.sampling,
            refused=trace.refused,
        )
        if body.explain
        else None,
    )
