"""Reading a body, and documenting in OpenAPI what it must be.

Bodies are read as bytes and validated by pydantic itself: the framework's own JSON step fails on hostile numbers and
repeats the input in its errors. It knows nothing about any single call.
"""

from typing import Any

from fastapi import Request
from pydantic import BaseModel

from service.api.errors import MEDIA_TYPE, HttpProblem
from service.api.schemas import Problem

_JSON_TYPES = ("application/json", "text/plain")  # text/plain: a browser's beacon cannot send another without preflight


async def read_body(request: Request) -> bytes:
    """The body as bytes.

    Raises:
        HttpProblem: It is declared to be something other than JSON, or is compressed.
    """
    declared = request.headers.get("content-type", "application/json").split(";")[0].strip().lower()
    if declared not in _JSON_TYPES:
        raise HttpProblem(415, "Send JSON, as application/json or text/plain.", close=True)
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise HttpProblem(415, "Send the body without compression.", close=True)
    return await request.body()


def documented(body: type[BaseModel], replies: dict[int, type[BaseModel]], summary: str) -> dict[str, Any]:
    """Arguments for a route that reads its own body: OpenAPI's request body and every status it can answer."""
    responses: dict[int | str, dict[str, Any]] = {status: {"model": model} for status, model in replies.items()}
    for status in (400, 403, 408, 413, 415, 422, 503):
        responses.setdefault(
            status, {"content": {MEDIA_TYPE: {"schema": _reference(Problem)}}, "description": "Problem"}
        )
    return {
        "summary": summary,
        "responses": responses,
        "openapi_extra": {
            "requestBody": {
                "required": True,
                "content": {kind: {"schema": _reference(body)} for kind in _JSON_TYPES[:1]},
            }
        },
    }


def _reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}
