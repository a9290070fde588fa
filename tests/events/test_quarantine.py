"""What cannot be believed is kept, whatever bytes it is made of, and only up to the cap."""

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from service.contract.tables import quarantine
from service.events.group_commit import GroupCommit, Outcome, Write
from service.events.quarantine import MOST_BODY_BYTES, Quarantine


def row(body: bytes | str, impression_id: str | None = None) -> Write:
    found = Quarantine(most_rows=10).row(endpoint="/click", reason="forged", body=body, impression_id=impression_id)
    assert found is not None
    return found


@pytest.mark.parametrize(
    "body",
    [b"\xff\xfe\x00", "a\0b", "a\ud800b", "é" * 5000, b"\xf0\x9f\x98\x80" * 1000, b"", "\ud83d" * 3000],
    ids=["bytes", "nul", "surrogate", "long-text", "long-bytes", "empty", "surrogates"],
)
async def test_any_body_can_be_kept(writer: GroupCommit, engine: AsyncEngine, body: bytes | str) -> None:
    outcome = await writer.write(row(body))

    async with engine.connect() as connection:
        kept = (await connection.execute(select(quarantine.c.body))).scalar_one()
    assert outcome is Outcome.STORED
    assert len(kept.encode()) <= MOST_BODY_BYTES
    assert "\0" not in kept


def test_the_start_of_the_body_is_kept_without_half_a_character() -> None:
    assert row(b"x" * 2047 + "é".encode()).row["body"] == "x" * 2047


def test_a_claimed_impression_is_kept_short() -> None:
    assert row(b"", impression_id="i\0" + "x" * 500).row["impression_id"] == "i" + "x" * 62


def test_beyond_the_cap_rows_are_counted_only() -> None:
    full = Quarantine(most_rows=2)

    rows = [full.row(endpoint="/click", reason="forged", body=b"{}") for _ in range(5)]

    assert [found is not None for found in rows] == [True, True, False, False, False]
    assert (full.kept["forged"], full.capped["forged"]) == (2, 3)


async def test_the_cap_counts_what_is_in_the_table_already(writer: GroupCommit, engine: AsyncEngine) -> None:
    await writer.write_many([row(b"1"), row(b"2")])

    opened = await Quarantine.open(engine, most_rows=2)

    assert opened.row(endpoint="/click", reason="forged", body=b"3") is None
