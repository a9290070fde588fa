"""A query is popular when enough people typed it, and then in their language only."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from service.contract.tables import searches
from service.pipeline.popular import PopularQueries

NOW = datetime(2026, 11, 21, 10, tzinfo=UTC)


def typed(people: int, text: str = "rice", **changes: Any) -> list[dict[str, Any]]:
    row = {
        "at": NOW - timedelta(days=1),
        "query": text,
        "match_key": text,
        "locale": "en",
        "origin": "typed",
        **changes,
    }
    return [{"search_id": f"{row}-{number}", "user_id": f"u{number}", **row} for number in range(people)]


async def top(engine: AsyncEngine, rows: list[dict[str, Any]], locale: str = "en") -> list[str]:
    async with engine.begin() as connection:
        await connection.execute(insert(searches), rows)
    popular = PopularQueries(engine, min_people=5, days=28, timeout_s=2, now=lambda: NOW)
    await popular.refresh()
    return [candidate.text for candidate in popular.top(locale)]


@pytest.mark.parametrize(("people", "shown"), [(4, []), (5, ["rice"])])
async def test_five_people_make_a_query_popular(engine: AsyncEngine, people: int, shown: list[str]) -> None:
    assert await top(engine, typed(people)) == shown


@pytest.mark.parametrize("user", ["u1", None])
async def test_one_person_or_nobody_makes_nothing_popular(engine: AsyncEngine, user: str | None) -> None:
    rows = [{**row, "user_id": user} for row in typed(50)]

    assert await top(engine, rows) == []


@pytest.mark.parametrize(("origin", "shown"), [("typed", ["rice"]), ("import", ["rice"]), ("clicked", [])])
async def test_what_was_clicked_is_not_counted(engine: AsyncEngine, origin: str, shown: list[str]) -> None:
    assert await top(engine, typed(5, origin=origin)) == shown


async def test_old_searches_are_forgotten(engine: AsyncEngine) -> None:
    assert await top(engine, typed(5, at=NOW - timedelta(days=29))) == []


async def test_more_people_stand_before_fewer(engine: AsyncEngine) -> None:
    assert await top(engine, [*typed(5, "beans"), *typed(7, "rice"), *typed(6, "peas")]) == ["rice", "peas", "beans"]


@pytest.mark.parametrize(
    ("stored", "asked", "shown"),
    [
        ("en-us", "en-gb", ["rice"]),
        ("EN", "en", ["rice"]),
        ("de", "en", []),
        ("fil", "fil", ["rice"]),
        ("fil", "fi", []),
        ("fil-ph", "fil", ["rice"]),
        (None, "en", []),
    ],
)
async def test_a_query_is_shown_in_its_own_language(
    engine: AsyncEngine, stored: str | None, asked: str, shown: list[str]
) -> None:
    assert await top(engine, typed(5, locale=stored), asked) == shown
