"""The context of an impression as the log has it, written and read here for both halves.

It knows nothing about databases or files; the typed query and the length of the list are columns of their own.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from service.contract.types import EventSource, HistoryEvent, PromptContext


def as_logged(context: PromptContext) -> dict[str, Any]:
    """The JSON value of an impression's column `context`."""
    return {
        "session": list(context.session),
        "history": [
            {"source": event.source.value, "text": event.text, "at": event.at.isoformat() if event.at else None}
            for event in context.history
        ],
        "answer": context.answer,
        "documents": list(context.documents),
        "co_queries": list(context.co_queries),
    }


def from_log(logged: Mapping[str, Any], *, query: str | None, n: int) -> PromptContext:
    """The context again. What an erasure took is left out.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: It is nothing that `as_logged` wrote.
    """
    return PromptContext(
        n=n,
        query=query,
        session=_texts(logged, "session"),
        history=tuple(_event(each) for each in logged.get("history", ())),
        answer=logged.get("answer"),
        documents=_texts(logged, "documents"),
        co_queries=_texts(logged, "co_queries"),
    )


def as_whole(context: PromptContext) -> dict[str, Any]:
    """The same with the typed query and the length of the list, where they have no columns."""
    return {**as_logged(context), "query": context.query, "n": context.n}


def from_whole(whole: Mapping[str, Any]) -> PromptContext:
    """The context that `as_whole` wrote; raises as `from_log` does."""
    return from_log(whole, query=whole["query"], n=whole["n"])


def _texts(logged: Mapping[str, Any], name: str) -> tuple[str, ...]:
    return tuple(text for text in logged.get(name, ()) if isinstance(text, str))


def _event(logged: Mapping[str, Any]) -> HistoryEvent:
    at = logged.get("at")
    return HistoryEvent(
        source=EventSource(logged["source"]), text=logged["text"], at=datetime.fromisoformat(at) if at else None
    )
