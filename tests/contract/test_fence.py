"""A fencing number: only the newest holder of a lock can promote or write, whatever an older one believes."""

import asyncio
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from service.contract import job_records, registry
from service.contract.artifact import seal
from service.contract.errors import ConfigurationError, RegistryConflict
from service.contract.fence import Fence, check_fence, parse_fence, take_number


async def model(engine: AsyncEngine, root: Path, version: str) -> registry.ModelVersion:
    directory = root / version
    directory.mkdir()
    (directory / "weights").write_text(version)
    seal(directory, {"version": version})
    return await registry.register(engine, version=version, kind="ctr", task="suggest", directory=directory)


async def test_every_holder_gets_the_next_number_of_its_job(engine: AsyncEngine) -> None:
    taken = [await take_number(engine, job) for job in ("nightly", "nightly", "weekly")]

    assert taken == [Fence("nightly", 1), Fence("nightly", 2), Fence("weekly", 1)]
    assert [parse_fence(str(fence)) for fence in taken] == taken


async def test_a_stale_holder_cannot_promote_and_the_newest_can(engine: AsyncEngine, tmp_path: Path) -> None:
    stale, newest = await take_number(engine, "nightly"), await take_number(engine, "nightly")
    challenger = await model(engine, tmp_path, "v1")

    with pytest.raises(RegistryConflict, match="lost its lock"):
        await registry.put_in_front(engine, challenger, fence=stale)
    none_yet = await registry.champion(engine, "ctr", "suggest")
    champion = await registry.put_in_front(engine, challenger, fence=newest)

    assert none_yet is None
    assert champion.version == "v1"


async def test_no_later_number_is_taken_while_a_holder_writes(engine: AsyncEngine) -> None:
    fence = await take_number(engine, "nightly")

    async with engine.begin() as connection:
        await check_fence(connection, fence)
        later = asyncio.create_task(take_number(engine, "nightly"))
        done, _ = await asyncio.wait([later], timeout=0.3)
        assert done == set()

    assert (await later).number == 2


async def test_a_challenger_replaces_only_the_champion_that_it_competed_with(
    engine: AsyncEngine, tmp_path: Path
) -> None:
    first, second, by_hand = [await model(engine, tmp_path, version) for version in ("v1", "v2", "by-hand")]
    met = await registry.put_in_front(engine, first, expected_revision=0)
    await registry.put_in_front(engine, by_hand)

    with pytest.raises(RegistryConflict, match="somebody else"):
        await registry.put_in_front(engine, second, expected_revision=met.revision)
    again = await registry.put_in_front(engine, by_hand, expected_revision=met.revision)  # it serves already

    assert again.version == "by-hand"


async def test_a_version_for_all_tasks_can_serve_one(engine: AsyncEngine, tmp_path: Path) -> None:
    directory = (await model(engine, tmp_path, "v1")).directory
    for_all = await registry.register(engine, version="all", kind="policy", task="*", directory=directory)

    champion = await registry.put_in_front(engine, for_all, task="hint")

    assert (champion.task, champion.version) == ("hint", "all")


async def test_a_stale_holder_cannot_write_the_record_of_a_run(engine: AsyncEngine) -> None:
    stale = await take_number(engine, "nightly")
    run = await job_records.open_run(engine, stale, "2026-11-01--2026-11-22", {})
    await take_number(engine, "nightly")

    with pytest.raises(RegistryConflict):
        await job_records.change_run(engine, stale, run.run_id, state="done")
    with pytest.raises(RegistryConflict):
        await job_records.open_run(engine, stale, "2026-11-02--2026-11-23", {})

    assert [each.state for each in await job_records.list_runs(engine)] == ["running"]


@pytest.mark.parametrize("text", ["", "nightly", "nightly:", ":7", "nightly:x", "nightly:-1", "nightly:²"])
def test_what_is_no_fence_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="is no fence"):
        parse_fence(text)
