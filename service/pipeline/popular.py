"""The popular rung: what many people typed, kept in memory, refreshed in the background.

A query that fewer than `min_people` known people typed is never in it (RELIABILITY.md, Abuse).
"""

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from sqlalchemy import case, func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from service.contract.tables import searches
from service.contract.types import Candidate, Origin, ServedBy

_LOG = logging.getLogger(__name__)
_KEPT = 200


class PopularQueries:
    """The most typed queries by language, best first."""

    def __init__(
        self,
        database: AsyncEngine,
        *,
        min_people: int,
        days: float,
        timeout_s: float,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._database = database
        self._min_people = min_people
        self._days = days
        self._timeout_s = timeout_s
        self._now = now
        self._by_language: dict[str, tuple[str, ...]] = {}

    def top(self, locale: str) -> list[Candidate]:
        """Popular queries in the language of `locale`, best first."""
        found = self._by_language.get(locale.split("-")[0].lower(), ())
        return [Candidate(text=text, source=ServedBy.POPULAR) for text in found]

    async def refresh(self) -> None:
        """Read the popular queries of the last days from the search log; a database that is away leaves those before."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._read()
        except (SQLAlchemyError, OSError, TimeoutError):
            _LOG.warning("Popular queries could not be refreshed; the last ones stay.")

    async def _read(self) -> None:
        people = func.count(func.distinct(searches.c.user_id))
        locale = func.lower(searches.c.locale)  # en, pt-br, fil
        two_letters = func.substr(locale, 3, 1).in_(["", "-"])
        language = case((two_letters, func.substr(locale, 1, 2)), else_=func.substr(locale, 1, 3))
        query = (
            select(language, searches.c.match_key)
            .where(searches.c.at >= self._now() - timedelta(days=self._days))
            .where(searches.c.origin.in_([Origin.TYPED, Origin.IMPORT]))
            .where(searches.c.user_id.is_not(None))
            .group_by(language, searches.c.match_key)
            .having(people >= self._min_people)
            .order_by(people.desc(), searches.c.match_key)
            .limit(_KEPT * 10)
        )
        async with self._database.connect() as connection:
            rows = (await connection.execute(query)).all()
        found: dict[str, list[str]] = {}
        for spoken, text in rows:
            found.setdefault(spoken, []).append(text)
        self._by_language = {spoken: tuple(texts[:_KEPT]) for spoken, texts in found.items()}
