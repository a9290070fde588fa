"""A context as the log has it: the JSON in the column `context` of an impression, written and read.

It knows nothing about databases or files. The query and the length of the list stand in columns of their own.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from service.contract.types import EventSource, HistoryEvent, PromptContext


def context_to_log(context: PromptContext) -> dict[str, Any]:
    """What the column holds of `context`."""
    history = [
        {"source": event.source.value, "text": event.text, "at": event.at.isoformat() if event.at else None}
        for event in context.history
    ]
    return {
        "session": list(context.session),
        "history": history,
        "answer": context.answer,
        "documents": list(context.documents),
        "co_queries": list(context.co_queries),
    }


def context_from_log(logged: Mapping[str, Any], *, n: int, query: str | None) -> PromptContext:
    """The context of which the column holds `logged`; texts that were erased are left out.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: It is no such JSON.
    """
    return PromptContext(
        n=n,
        query=query,
        session=_texts(logged, "session"),
        history=tuple(_event(each) for each in logged.get("history") or ()),
        answer=logged.get("answer"),
        documents=_texts(logged, "documents"),
        co_queries=_texts(logged, "co_queries"),
    )


def _texts(logged: Mapping[str, Any], name: str) -> tuple[str, ...]:
    return tuple(text for text in logged.get(name) or () if isinstance(text, str))


def _event(logged: Mapping[str, Any]) -> HistoryEvent:
    at = logged.get("at")
    return HistoryEvent(
        source=EventSource(logged["source"]), text=logged["text"], at=datetime.fromisoformat(at) if at else None
    )
