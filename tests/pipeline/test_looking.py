"""Looks are taken again and again, and one that is under way may finish."""

import asyncio

import pytest

from service.pipeline.looking import Looking


async def test_looks_are_taken_until_the_end_and_none_waits_for_another() -> None:
    looking, quick, slow = Looking(), [0], asyncio.Event()

    async def look() -> None:
        quick[0] += 1

    looking.begin(look, 0.001)
    looking.begin(lambda: slow.wait(), 0.001)  # type: ignore[arg-type, return-value]
    await asyncio.sleep(0.05)
    slow.set()
    await looking.end(within_s=1)
    taken = quick[0]
    await asyncio.sleep(0.01)

    assert quick[0] == taken > 3


async def test_a_look_under_way_finishes_and_one_that_hangs_is_cancelled() -> None:
    looking, ended = Looking(), []

    async def short() -> None:
        await asyncio.sleep(0.05)
        ended.append("finished")

    async def endless() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    looking.begin(short, 60)
    looking.begin(endless, 60)
    await asyncio.sleep(0.01)
    await looking.end(within_s=0.3)

    assert ended == ["finished", "cancelled"]


@pytest.mark.alone
async def test_a_pause_does_not_delay_the_end() -> None:
    looking = Looking()

    async def look() -> None: ...

    looking.begin(look, 60)
    await asyncio.sleep(0.01)
    began = asyncio.get_running_loop().time()
    await looking.end(within_s=5)

    assert asyncio.get_running_loop().time() - began < 0.5
