"""Reading a body, and documenting in OpenAPI what it must be.

Bodies are read as bytes and validated by pydantic itself: the framework's own JSON step fails on hostile numbers and
repeats the input in its errors. It knows nothing about any single call.
"""

from http import HTTPStatus
from typing import Any

from fastapi import Request
from pydantic import BaseModel
from starlette.requests import ClientDisconnect

from service.api.errors import MEDIA_TYPE, HttpProblem
from service.api.schemas import Problem

_JSON_TYPES = (
    b"application/json",
    b"text/plain",
)  # text/plain: a browser's beacon cannot send another without preflight
_PROBLEMS = (400, 405, 408, 413, 415, 422, 503)  # 400: the HTTP parser's, before any of our code


async def read_body(request: Request) -> bytes:
    """The body as bytes.

    Raises:
        HttpProblem: It is declared to be something other than JSON, or is compressed.
        ClientDisconnect: The client left before its end.
    """
    headers = dict(request.scope["headers"])
    declared = headers.get(b"content-type", b"application/json").split(b";")[0].strip().lower()
    if declared not in _JSON_TYPES:
        raise HttpProblem(415, "Send JSON, as application/json or text/plain.", close=True)
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise HttpProblem(415, "Send the body without compression.", close=True)
    message = await request.receive()
    body = message.get("body", b"")
    while message.get("more_body", False):
        message = await request.receive()
        body += message.get("body", b"")
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    return bytes(body)


def documented(
    bodies: tuple[type[BaseModel], ...],
    replies: dict[int, type[BaseModel]],
    summary: str,
    problems: tuple[int, ...] = (),
) -> dict[str, Any]:
    """Arguments for a route that reads its own body: what it takes and every status it answers, for OpenAPI.

    Args:
        bodies: one of them is sent; their schemas must exclude each other.
        replies: status and body where it succeeds.
        summary: the call in a few words.
        problems: statuses of its own, besides those that every call with a body has.
    """
    responses: dict[int | str, dict[str, Any]] = {status: {"model": model} for status, model in replies.items()}
    for status in sorted({*_PROBLEMS, *problems}):
        responses[status] = {
            "content": {MEDIA_TYPE: {"schema": _reference(Problem)}},
            "description": HTTPStatus(status).phrase,
        }
    references = [_reference(body) for body in bodies]
    schema = references[0] if len(references) == 1 else {"oneOf": references}
    return {
        "summary": summary,
        "responses": responses,
        "openapi_extra": {"requestBody": {"required": True, "content": {_JSON_TYPES[0].decode(): {"schema": schema}}}},
    }


def _reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}
