"""Where the co-occurrence dictionary D_coo is kept (GQR 3.3), one file a place.

A dictionary gives for a query id what people typed next, best first. It knows nothing about similarity or prompts.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

MOST_NEXT = 20  # queries kept of what follows a query: a list shows ten at most


@dataclass(frozen=True, slots=True)
class NextQuery:
    """What people typed next. `weight`: how much it says, comparable between queries (`retrieval/mining/weight.py`)."""

    text: str
    weight: float


class Dictionary(Protocol):
    """D_coo of one build. `build` names it; an index of another build does not go with it."""

    build: str

    async def next_queries(self, query_ids: Sequence[int]) -> list[tuple[NextQuery, ...]]:
        """What followed each query, best first; () where nothing is known. One round trip however many are asked.

        Raises:
            RetrievalError: The dictionary is away.
        """

    async def close(self) -> None:
        """Let go of files and connections."""


def to_key(query_id: int) -> bytes:
    """The eight bytes that a query is kept under; they sort as unsigned numbers."""
    return (query_id % 2**64).to_bytes(8, "big")


def from_key(key: bytes) -> int:
    """The query id that `to_key` took."""
    return int.from_bytes(key, "big") - (2**64 if key[0] & 0x80 else 0)


def to_bytes(next_queries: Iterable[NextQuery]) -> bytes:
    """An entry as it is kept: a JSON list of texts and weights in turn."""
    flat = [value for each in next_queries for value in (each.text, float(f"{each.weight:.4g}"))]
    return json.dumps(flat, ensure_ascii=False, separators=(",", ":")).encode()


def from_bytes(entry: bytes) -> tuple[NextQuery, ...]:
    """The entry that `to_bytes` wrote."""
    flat = json.loads(entry)
    return tuple(map(NextQuery, flat[::2], flat[1::2]))
