"""Acknowledged means committed, once, whatever happens to the batch, the caller or the database."""

import asyncio
import hashlib
import shutil
from collections import Counter
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from service.contract import database
from service.contract.errors import DatabaseError, Overloaded
from service.contract.tables import clicks, impressions, searches
from service.events.group_commit import GroupCommit, Outcome, RowRefused, Write
from tests.conftest import TIMEOUTS
from tests.events.faults import FreezableProxy, away, second_connection, terminate_others

AT = datetime(2026, 11, 21, 9, 30, 0, 123456, tzinfo=UTC)


def click(impression_id: str, position: int = 1, **changes: Any) -> Write:
    row = {"impression_id": impression_id, "position": position, "kind": "click", "at": AT, "task": "suggest"}
    return Write(table="clicks", row={**row, **changes})


def search(search_id: str) -> Write:
    row = {"search_id": search_id, "at": AT, "query": "q", "match_key": "q", "origin": "typed"}
    return Write(table="searches", row=row)


def stored_ids(url: str) -> set[str]:
    """What another connection sees, so only what is committed."""
    with closing(second_connection(url)) as connection:
        return {row[0] for row in connection.execute("SELECT impression_id FROM clicks").fetchall()}


async def test_an_acknowledged_row_is_committed(writer: GroupCommit, database_url: str) -> None:
    async def write_and_look(number: int) -> bool:
        await writer.write(click(f"i{number}"))
        return f"i{number}" in await asyncio.to_thread(stored_ids, database_url)

    seen = await asyncio.gather(*(write_and_look(number) for number in range(20)))

    assert all(seen)


async def test_a_row_comes_back_as_it_was_written(writer: GroupCommit, engine: AsyncEngine) -> None:
    row = {
        "impression_id": "i1",
        "at": AT,
        "tenant": "shop",
        "task": "suggest",
        "user_id": None,
        "session_id": "s \\u0000 \\ \" ' %s ? {} é 😀",
        "query": "",
        "locale": "en",
        "context": {"session": ["a", "b"], "history": [], "answer": None},
        "prompt_fingerprint": "f",
        "prompt_tokens": 12,
        "arm": "b",
        "policy_version": "sft-1",
        "ctr_version": None,
        "cor_version": None,
        "sampling": {"temperature": 0.7, "seed": None, "n": 1},
        "candidates": [{"text": "größer", "position": 1, "logprob": -1.25, "score": None}],
        "texts": {},
        "n_shown": 1,
        "served_by": "model",
        "degraded_reason": None,
        "timings": {"generate": 12.5},
        "unit_bucket": 7,
        "latency_ms": 12.5,
        "n_repeated": 0,
        "n_chars": 6,
    }

    await writer.write(Write(table="impressions", row=row))

    async with engine.connect() as connection:
        found = (await connection.execute(select(impressions))).one()._asdict()
    assert found == row


async def test_defaults_fill_what_is_left_out(writer: GroupCommit, engine: AsyncEngine) -> None:
    await writer.write(click("i1"))

    async with engine.connect() as connection:
        found = (await connection.execute(select(clicks))).one()
    assert (found.tenant, found.arm, found.client_at, found.at) == ("default", "control", None, AT)


async def test_the_same_click_a_thousand_times_at_once_is_one_row(writer: GroupCommit, database_url: str) -> None:
    outcomes = await asyncio.gather(*(writer.write(click("same")) for _ in range(1000)))

    assert Counter(outcomes) == {Outcome.STORED: 1, Outcome.DUPLICATE: 999}
    assert stored_ids(database_url) == {"same"}


async def test_a_click_on_another_position_is_no_duplicate(writer: GroupCommit) -> None:
    outcomes = await writer.write_many([click("i1", 1), click("i1", 2), click("i1", 1), click("i1", 1, kind="seen")])

    assert outcomes == [Outcome.STORED, Outcome.STORED, Outcome.DUPLICATE, Outcome.STORED]


async def test_a_thousand_events_for_two_tables_are_written_in_one_go(writer: GroupCommit, engine: AsyncEngine) -> None:
    writes = [click(f"i{k}") if k % 2 else search(f"s{k}") for k in range(1000)]

    outcomes = await writer.write_many(writes)

    assert outcomes == [Outcome.STORED] * 1000
    async with engine.connect() as connection:
        assert len((await connection.execute(select(searches.c.search_id))).all()) == 500


@pytest.mark.parametrize(
    "changes",
    [
        {"tenant": "a\0b"},
        {"tenant": "a\ud800b"},
        {"tenant": None},
        {"at": datetime(2026, 1, 1)},
        {"query": float("nan")},
        {"no_such_column": 1},
    ],
    ids=["nul", "surrogate", "null", "naive", "nan", "unknown-column"],
)
async def test_a_bad_row_fails_alone(writer: GroupCommit, database_url: str, changes: dict[str, Any]) -> None:
    good = [click(f"i{k}") for k in range(50)]

    results = await asyncio.gather(
        *(writer.write(write) for write in [*good[:25], click("bad", **changes), *good[25:]]), return_exceptions=True
    )

    assert isinstance(results[25], RowRefused)
    assert results[:25] + results[26:] == [Outcome.STORED] * 50
    assert stored_ids(database_url) == {f"i{k}" for k in range(50)}


async def test_what_only_the_database_finds_wrong_costs_one_row(writer: GroupCommit, database_url: str) -> None:
    writes = [click(f"i{k}") for k in range(40)]
    writes[7] = click("bad", task=None)
    writes[30] = click("worse", tenant=None)

    outcomes = await writer.write_many(writes)

    assert [k for k, outcome in enumerate(outcomes) if outcome is not Outcome.STORED] == [7, 30]
    assert outcomes[7] is outcomes[30] is Outcome.REFUSED
    assert len(stored_ids(database_url)) == 38


async def test_a_key_too_long_for_an_index_is_refused_and_not_taken_for_an_outage(postgresql_url: str) -> None:
    engine = database.create(postgresql_url, TIMEOUTS)
    writer = GroupCommit(engine)
    await writer.start()
    long = "".join(hashlib.sha256(bytes([k])).hexdigest() for k in range(250))

    outcomes = await writer.write_many([click("short-key"), click(long)])

    await writer.close()
    await engine.dispose()
    assert outcomes == [Outcome.STORED, Outcome.REFUSED]


async def test_a_bad_row_among_many_is_told_as_refused(writer: GroupCommit) -> None:
    outcomes = await writer.write_many([click("i1"), click("i2", tenant=None), click("i3", tenant="\0"), click("i4")])

    assert outcomes == [Outcome.STORED, Outcome.REFUSED, Outcome.REFUSED, Outcome.STORED]


async def test_an_error_does_not_repeat_the_row(writer: GroupCommit) -> None:
    with pytest.raises(RowRefused) as refused:
        await writer.write(click("i1", query="my secret \ud800"))

    assert "secret" not in str(refused.value)


async def test_a_database_that_is_away_is_never_a_success_and_comes_back(
    writer: GroupCommit, database_url: str
) -> None:
    await writer.write(click("before"))

    with away(database_url):
        away_results = await asyncio.gather(*(writer.write(click(f"a{k}")) for k in range(5)), return_exceptions=True)
        clock = asyncio.get_running_loop().time()
        with pytest.raises(DatabaseError):
            await writer.write(click("while"))
        quick_s = asyncio.get_running_loop().time() - clock
    outcome = await written_again(writer, click("after"))

    assert all(isinstance(result, DatabaseError) for result in away_results)
    assert quick_s < 0.05
    assert outcome is Outcome.STORED
    assert stored_ids(database_url) == {"before", "after"}


async def test_a_connection_that_was_closed_meanwhile_is_opened_again_unseen(postgresql_url: str) -> None:
    engine = database.create(postgresql_url, TIMEOUTS)
    writer = GroupCommit(engine)
    await writer.start()
    await writer.write(click("closed-1"))
    terminate_others(postgresql_url)

    outcome = await writer.write(click("closed-2"))

    await writer.close()
    await engine.dispose()
    assert outcome is Outcome.STORED


async def test_a_writer_that_starts_before_its_database_writes_once_it_is_there(engine: AsyncEngine) -> None:
    url = engine.url.render_as_string(hide_password=False)
    writer = GroupCommit(engine)

    with away(url):
        await writer.start()
        with pytest.raises(DatabaseError):
            await writer.write(click("early"))
    outcome = await written_again(writer, click("late"))

    await writer.close()
    assert outcome is Outcome.STORED


async def test_a_caller_that_leaves_does_not_break_the_batch(writer: GroupCommit, database_url: str) -> None:
    leaving = [asyncio.create_task(writer.write(click(f"left{k}"))) for k in range(10)]
    staying = [asyncio.create_task(writer.write(click(f"stayed{k}"))) for k in range(10)]
    await asyncio.sleep(0)

    for task in leaving:
        task.cancel()
    outcomes = await asyncio.gather(*staying)

    assert outcomes == [Outcome.STORED] * 10
    assert {f"stayed{k}" for k in range(10)} <= stored_ids(database_url)


async def test_a_full_queue_refuses_and_says_when_to_try_again(engine: AsyncEngine) -> None:
    writer = GroupCommit(engine, most_queued=10)
    await writer.start()

    results = await asyncio.gather(*(writer.write(click(f"i{k}")) for k in range(30)), return_exceptions=True)

    await writer.close()
    refused = [result for result in results if isinstance(result, Overloaded)]
    assert len(refused) == 20
    assert refused[0].retry_after_s >= 1
    assert [result for result in results if result not in refused] == [Outcome.STORED] * 10


async def test_closing_commits_what_was_accepted_and_takes_no_more(engine: AsyncEngine, database_url: str) -> None:
    writer = GroupCommit(engine)
    await writer.start()
    accepted = [asyncio.create_task(writer.write(click(f"i{k}"))) for k in range(700)]
    await asyncio.sleep(0)

    await writer.close()

    assert await asyncio.gather(*accepted) == [Outcome.STORED] * 700
    with pytest.raises(Overloaded):
        await writer.write(click("late"))
    assert len(stored_ids(database_url)) == 700


async def test_closing_while_the_database_hangs_leaves_no_caller_waiting(migrated_sqlite: Path, tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{shutil.copy(migrated_sqlite, tmp_path)}"
    engine = database.create(url, TIMEOUTS.model_copy(update={"database_statement_s": 0.3}))
    writer = GroupCommit(engine)
    await writer.start()

    with away(url):
        waiting = asyncio.create_task(writer.write(click("hanging")))
        await asyncio.sleep(0.05)
        async with asyncio.timeout(5):
            await writer.close()
            with pytest.raises(DatabaseError):
                await waiting

    await engine.dispose()
    assert stored_ids(url) == set()


async def written_again(writer: GroupCommit, write: Write) -> Outcome:
    async with asyncio.timeout(10):
        while True:
            try:
                return await writer.write(write)
            except DatabaseError:
                await asyncio.sleep(0.05)


async def test_a_frozen_database_is_noticed_and_taken_up_again_when_it_thaws(postgresql_url: str) -> None:
    async with FreezableProxy(postgresql_url) as proxy:
        quick = TIMEOUTS.model_copy(update={"database_statement_s": 0.2, "database_connect_s": 1})
        engine = database.create(proxy.url, quick)
        writer = GroupCommit(engine)
        await writer.start()
        await writer.write(click("frozen-before"))

        proxy.running.clear()
        async with asyncio.timeout(3):
            with pytest.raises(DatabaseError):
                await writer.write(click("frozen-while"))
        proxy.running.set()
        outcome = await written_again(writer, click("frozen-after"))

        await writer.close()
        await engine.dispose()
    assert outcome is Outcome.STORED
