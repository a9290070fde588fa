"""POST /click: what happened to a list, acknowledged after its commit.

It knows nothing about tokens or tables.
"""

import asyncio
import json
from collections.abc import Sequence
from functools import cache

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import ValidationError

from service.api.body import documented, read_body
from service.api.errors import HttpProblem, problem
from service.api.metrics import Metrics
from service.api.raw_route import RawRoute
from service.api.schemas import ClickBatch, ClickEvent, ClickReply, EventResult
from service.events.intake import Ending, Received, Verdict
from service.runtime import Runtime

router = APIRouter(route_class=RawRoute)
_SENTENCES = {
    "forged": "The click token was not signed by this service, or was altered. Send it exactly as /recommend gave it.",
    "malformed": "The click token cannot be read. Send it exactly as /recommend gave it.",
    "expired": "The click token has expired. Clicks count for some days after the list was shown.",
    "never_shown": "The list had no query at this position, so nothing can have happened to it.",
}


@router.post(
    "/click",
    **documented(
        (ClickEvent, ClickBatch),
        {200: ClickReply, 202: ClickReply},
        "What happened to a list: one event, or a batch.",
        problems=(403,),
    ),
)
async def click(request: Request) -> Response:
    """202 stored, 200 known already, 403 not to be believed; a batch is 202 with a result for each event."""
    raw = await read_body(request)
    try:
        body = _event_or_batch(raw)
    except ValidationError:
        request.app.state.metrics.event(Ending.REFUSED)  # how many there were in an unreadable batch nobody knows
        raise
    if isinstance(body, ClickBatch):
        return await _batch(request, body)
    return _single_reply((await _take(request, [_received(body, raw)]))[0])


def _event_or_batch(raw: bytes) -> ClickEvent | ClickBatch:
    try:
        return ClickEvent.model_validate_json(raw)
    except ValidationError:
        if b'"events"' not in raw:
            raise
    return ClickBatch.model_validate_json(raw)


async def _batch(request: Request, batch: ClickBatch) -> Response:
    results: dict[int, Verdict] = {}
    taken: list[tuple[int, Received]] = []
    for index, item in enumerate(batch.events):
        try:
            raw = json.dumps(item).encode()
            taken.append((index, _received(ClickEvent.model_validate_json(raw), raw)))
        except ValueError:  # ValidationError is one
            results[index] = Verdict(Ending.REFUSED, "malformed")
    request.app.state.metrics.event(Ending.REFUSED, len(results))
    verdicts = await _take(request, [event for _, event in taken])
    results.update({index: verdict for (index, _), verdict in zip(taken, verdicts, strict=True)})
    return _reply(202, [results[index] for index in range(len(batch.events))])


async def _take(request: Request, events: Sequence[Received]) -> list[Verdict]:
    runtime: Runtime = request.app.state.runtime
    metrics: Metrics = request.app.state.metrics
    try:
        async with asyncio.timeout(runtime.settings.timeouts.click_s):
            verdicts = await runtime.clicks.take(events)
    except TimeoutError:
        metrics.event(Ending.REFUSED, len(events))
        raise HttpProblem(503, "The database did not commit in time. Send the events again.", retry_after_s=1) from None
    except Exception:
        metrics.event(Ending.REFUSED, len(events))
        raise
    for verdict in verdicts:
        metrics.event(verdict.ending)
    return verdicts


def _received(event: ClickEvent, raw: bytes) -> Received:
    return Received(
        click_token=event.click_token,
        kind=event.kind,
        position=event.position,
        raw=raw,
        query=event.query,
        client_at=event.at,
        user_id=event.user_id,
        session_id=event.session_id,
        locale=event.locale.replace("_", "-").lower(),
    )


def _single_reply(verdict: Verdict) -> Response:
    if verdict.ending is Ending.QUARANTINED:
        return problem(403, _SENTENCES.get(verdict.reason or "", "The event cannot be believed."))
    if verdict.ending is Ending.REFUSED:
        return problem(422, "The database cannot hold this event. Send it without unusual characters.")
    return _acknowledgement(verdict.ending)


@cache
def _acknowledgement(ending: Ending) -> Response:
    """The answer to one believed event; there are two of them, so each is made once."""
    return _reply(202 if ending is Ending.STORED else 200, [Verdict(ending)])


def _reply(status: int, verdicts: Sequence[Verdict]) -> Response:
    results = [
        EventResult(index=index, status=verdict.ending, reason=verdict.reason) for index, verdict in enumerate(verdicts)
    ]
    return Response(ClickReply(results=results).model_dump_json(), status_code=status, media_type="application/json")
