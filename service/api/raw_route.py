"""A documented route whose handler takes the request and returns the response itself.

It skips the framework's dependency step, which costs more than validating the body does.
"""

from typing import Any

from fastapi.routing import APIRoute
from starlette.routing import request_response


class RawRoute(APIRoute):
    """In OpenAPI as any other route; called as plainly as Starlette calls one."""

    def __init__(self, path: str, endpoint: Any, **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        self.app = request_response(endpoint)
