"""The outermost layer, plain ASGI: request ids, limits, problem documents, one log line a request.

It knows nothing about any single call.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.errors import HttpProblem, from_exception
from service.api.metrics import Metrics
from service.api.raw_route import Handler
from service.contract.logs import REQUEST_ID

_LOG = logging.getLogger("nextquery.request")
_QUIET = frozenset({"/livez", "/readyz", "/metrics"})
Message = MutableMapping[str, Any]


class Edge:
    """Bounds what comes in, and turns everything that is raised into a problem document."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        direct: Mapping[tuple[str, str], Handler],
        metrics: Metrics,
        max_body_bytes: int,
        max_in_flight: int,
        body_timeout_s: float,
    ) -> None:
        """Stand in front of `app`; calls in `direct`, by method and path, go straight to their handlers."""
        self._app = app
        self._direct = direct
        self._metrics = metrics
        self._max_body_bytes = max_body_bytes
        self._max_in_flight = max_in_flight
        self._body_timeout_s = body_timeout_s
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI call."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, request_id = time.perf_counter(), uuid.uuid4().hex
        REQUEST_ID.set(request_id)
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            await send(message)

        self._in_flight += 1
        try:
            await self._answer(scope, receive, send_with_id, lambda: status != 0)
        finally:
            self._in_flight -= 1
            self._report(scope, status, time.perf_counter() - started)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, began: Callable[[], bool]) -> None:
        try:
            if self._in_flight > self._max_in_flight and scope["path"] not in _QUIET:
                raise HttpProblem(503, "The service is full. Try again in a second.", retry_after_s=1, close=True)
            bounded = self._bounded(scope, receive)
            handler = self._direct.get((scope["method"], scope["path"]))
            if handler is None:
                await self._app(scope, bounded, send)
            else:
                response = await handler(Request(scope, bounded))
                await response(scope, bounded, send)
        except ClientDisconnect:  # in the middle of its body: nobody reads an answer
            return
        except Exception as error:
            response = from_exception(error)
            if response.status_code >= 500 and not isinstance(error, HttpProblem):
                _LOG.exception("The request failed.")
            if began():
                raise
            await response(scope, receive, send)

    def _bounded(self, scope: Scope, receive: Receive) -> Callable[[], Awaitable[Message]]:
        """`receive` that refuses long bodies before and while they come, and slow ones."""
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length[:20]) > self._max_body_bytes:
            raise self._too_long()
        received, deadline, complete = 0, time.monotonic() + self._body_timeout_s, False

        async def bounded() -> Message:
            nonlocal received, complete
            if complete:  # now it waits for the client to leave
                return await receive()
            try:
                async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                    message = await receive()
            except TimeoutError:
                raise HttpProblem(408, "The body did not arrive in time. Send it again.", close=True) from None
            received += len(message.get("body", b""))
            if received > self._max_body_bytes:
                raise self._too_long()
            complete = not message.get("more_body", False)
            return message

        return bounded

    def _too_long(self) -> HttpProblem:
        return HttpProblem(
            413, f"A body may have at most {self._max_body_bytes} bytes. Send fewer events at once.", close=True
        )

    def _report(self, scope: Scope, status: int, seconds: float) -> None:
        route = scope.get("route")  # set by the framework, so not for a direct call, whose path is its route
        direct = (scope["method"], scope["path"]) in self._direct
        path = scope["path"] if direct else getattr(route, "path", "other")
        self._metrics.request(path, scope["method"] if path != "other" else "other", status, seconds)
        if path not in _QUIET:
            fields = {"route": path, "status": status, "duration_ms": round(seconds * 1000, 2)}
            _LOG.info("request", extra=fields)
