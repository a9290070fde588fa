"""The quarantine: events that cannot be believed are kept to be looked at, up to a cap, and never train.

It writes nothing itself, and knows nothing about tokens or HTTP.
"""

from collections import Counter
from datetime import UTC, datetime

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from service.contract.database import database_errors
from service.contract.ids import new_id
from service.contract.tables import quarantine
from service.events.inserter import Write

MOST_BODY_BYTES = 2048
_MOST_ID_CHARACTERS = 64


class Quarantine:
    """Builds rows until the cap is reached; from then on it only counts.

    The cap is kept per process: with several, the table may hold that many times as many.
    """

    def __init__(self, *, most_rows: int, rows: int = 0) -> None:
        """Begin with `rows` in the table already."""
        self._most_rows = most_rows
        self._rows = rows
        self.kept: Counter[str] = Counter()  # by reason
        self.capped: Counter[str] = Counter()  # by reason, counted but not kept

    @classmethod
    async def open(cls, database: AsyncEngine, *, most_rows: int) -> "Quarantine":
        """Count what the table holds. Raises DatabaseError."""
        with database_errors("the quarantine was counted"):
            async with database.connect() as connection:
                rows = await connection.scalar(select(func.count()).select_from(quarantine))
        return cls(most_rows=most_rows, rows=rows or 0)

    def row(self, *, endpoint: str, reason: str, body: bytes | str, impression_id: str | None = None) -> Write | None:
        """Return what to write, or None when the quarantine is full. `reason` is one word of ours, never input."""
        if self._rows >= self._most_rows:
            self.capped[reason] += 1
            return None
        self._rows += 1
        self.kept[reason] += 1
        now = datetime.now(UTC)
        return Write(
            table=quarantine.name,
            row={
                "id": new_id(),
                "at": now,
                "endpoint": endpoint,
                "reason": reason,
                "body": _storable(body, MOST_BODY_BYTES),
                "impression_id": _storable(impression_id, _MOST_ID_CHARACTERS) if impression_id else None,
            },
        )


def _storable(text: bytes | str, most_bytes: int) -> str:
    """Return the start of `text` as UTF-8 that every database takes: no NUL, no lone surrogate, no half character."""
    raw = text[:most_bytes].encode("utf-8", "replace") if isinstance(text, str) else text
    return raw[:most_bytes].decode("utf-8", "ignore").replace("\0", "")
