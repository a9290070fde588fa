"""Rows of the log as benchmarks make them up: a list that somebody saw, and a click on it.

It knows nothing about what is learnt from them.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any


def impression(name: str, at: datetime, query: str, queries: Sequence[str], *, task: str = "suggest") -> dict[str, Any]:
    """A row of `impressions`, seen by somebody who is not seen again."""
    unknown = ("session_id", "locale", "ctr_version", "cor_version", "policy_version", "degraded_reason")
    return {
        **dict.fromkeys(unknown),
        "impression_id": name,
        "at": at,
        "task": task,
        "user_id": name,
        "query": query,
        "context": {},
        "prompt_fingerprint": "",
        "prompt_tokens": 0,
        "arm": "control",
        "sampling": {},
        "candidates": [{"text": text, "position": position} for position, text in enumerate(queries, 1)],
        "texts": {},
        "n_shown": len(queries),
        "served_by": "model",
        "timings": {},
    }


def click(seen: Mapping[str, Any], position: int) -> dict[str, Any]:
    """A row of `clicks` on an impression."""
    same = {name: seen[name] for name in ("impression_id", "at", "task", "arm")}
    return {**same, "position": position, "kind": "click", "client_at": None, "query": None, "policy_version": None}
