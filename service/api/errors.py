"""Errors as RFC 9457 problem documents; the only place that maps our errors to HTTP.

A problem never repeats input: neither values nor names that the caller chose.
"""

import json
from http import HTTPStatus
from typing import Any

from pydantic import ValidationError
from starlette.responses import Response

from service.contract import errors
from service.contract.logs import REQUEST_ID

MEDIA_TYPE = "application/problem+json"
_MOST_ERRORS = 8  # keeps every problem under 2 KB
_STATUS: list[tuple[type[errors.NextQueryError], int]] = [
    (errors.TokenRefused, 403),
    (errors.Overloaded, 503),
    (errors.DatabaseError, 503),
    (errors.EngineError, 503),
    (errors.RegistryConflict, 409),
]


class HttpProblem(Exception):
    """A refusal that only HTTP knows, such as an unknown content type."""

    def __init__(self, status: int, detail: str, *, retry_after_s: int | None = None, close: bool = False) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.retry_after_s = retry_after_s
        self.close = close


def problem(
    status: int,
    detail: str,
    *,
    field_errors: list[dict[str, str]] | None = None,
    retry_after_s: int | None = None,
    close: bool = False,
    headers: dict[str, str] | None = None,
) -> Response:
    """A problem response. `close`: the connection cannot be used again (an unread body is on it)."""
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "errors": field_errors or [],
        "request_id": REQUEST_ID.get(),
    }
    extra = dict(headers or {})
    if retry_after_s is not None:
        extra["Retry-After"] = str(retry_after_s)
    if close:
        extra["Connection"] = "close"
    return Response(json.dumps(body), status_code=status, media_type=MEDIA_TYPE, headers=extra)


def from_exception(error: Exception) -> Response:
    """The response for anything that was raised while answering."""
    if isinstance(error, HttpProblem):
        return problem(error.status, error.detail, retry_after_s=error.retry_after_s, close=error.close)
    if isinstance(error, ValidationError):
        return problem(422, "The body does not fit the schema of this call; see `errors`.", field_errors=_fields(error))
    for kind, status in _STATUS:
        if isinstance(error, kind):
            retry = getattr(error, "retry_after_s", 1) if status == 503 else None
            return problem(status, str(error), retry_after_s=retry)
    return problem(500, "The service failed; the log has the details under this request_id. Please report it.")


def _fields(error: ValidationError) -> list[dict[str, str]]:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return [{"field": _field(item["loc"], item["type"]), "message": _message(item)} for item in found[:_MOST_ERRORS]]


def _message(item: Any) -> str:
    if item["type"] == "json_invalid":  # its text quotes the body
        return "The body is not valid JSON."
    return str(item["msg"]).removeprefix("Value error, ")[:160]


def _field(loc: tuple[int | str, ...], kind: str) -> str:
    """Where the error is; a name that the caller invented is left out."""
    known = loc[:-1] if kind in ("extra_forbidden", "invalid_key") else loc
    return ".".join(str(part) for part in known) or "body"
