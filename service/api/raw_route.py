"""A documented route whose handler takes the request and returns the response itself.

In OpenAPI it is as any other; the edge calls its handler without the framework's routing and dependency steps, which
cost more than reading and validating the body do.
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute, request_response

Handler = Callable[[Request], Awaitable[Response]]


class RawRoute(APIRoute):
    """Called as plainly as Starlette calls one."""

    def __init__(self, path: str, endpoint: Any, **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        self.app = request_response(endpoint)


def handlers(routes: Iterable[BaseRoute]) -> dict[tuple[str, str], Handler]:
    """The handlers of all raw routes, by method and path."""
    raw = [route for route in routes if isinstance(route, RawRoute)]
    return {(method, route.path): route.endpoint for route in raw for method in route.methods or ()}
