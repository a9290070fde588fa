"""Logging: one JSON object a line on stderr, with the id of the request it belongs to.

It knows nothing about HTTP, and no text that a person wrote ever passes through it.

The rule: **no query text is logged.** Not a query, a prompt, a completion, an answer or a body; log counts, ids,
versions and durations. Two guards back the rule up: extra fields with such names are blanked, and of an exception
only its type and place are written, its message only when it is one of ours (a driver's message may quote a row).
"""

import json
import logging
import sys
import traceback
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from service.contract.errors import NextQueryError

REQUEST_ID: ContextVar[str | None] = ContextVar("nextquery_request_id", default=None)
"""Id of the request that is being answered; set by the API, empty elsewhere."""

_BLANKED = "(not logged)"
_PERSONAL = frozenset(
    "answer body candidates completion documents history prompt queries query session text texts".split()
)
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime"}
_UVICORN = ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi")


def configure_logging(level: str) -> None:
    """Send every logger's records of at least `level` to stderr as JSON lines. Calling it again changes the level."""
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False  # no line has them
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.root.handlers[:] = [handler]
    logging.root.setLevel(level)
    logging.captureWarnings(True)
    for name in _UVICORN:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.setLevel(logging.NOTSET)
        logger.propagate = True
    logging.getLogger("uvicorn.access").disabled = True  # paths and counts are in /metrics


class JsonLines(logging.Formatter):
    """One record as one JSON object: time, level, logger, message, the extra fields, exception and request_id."""

    def format(self, record: logging.LogRecord) -> str:
        """The line; extra fields that the rule forbids are blanked. A library for this took twice as long a line."""
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name, value in record.__dict__.items():
            if name not in _STANDARD and not name.startswith("_"):  # Ray puts its own there
                fields[name] = _BLANKED if name in _PERSONAL else value
        if record.exc_info:
            fields["exc_info"] = self.formatException(record.exc_info)
        fields["request_id"] = REQUEST_ID.get()
        return json.dumps(fields, default=str)

    def formatException(  # noqa: N802
        self, ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
    ) -> str:
        """The chain of exceptions, cause first: where each came from and its type; a message only when it is ours."""
        return "".join(_without_values(ei[1]))


def _without_values(error: BaseException | None) -> list[str]:
    if error is None:
        return []
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    words = f": {error}" if isinstance(error, NextQueryError) else ""
    return [*_without_values(cause), *traceback.format_tb(error.__traceback__), f"{type(error).__qualname__}{words}\n"]
