"""A champion in service gives way to a newer one that can be opened, and to no other."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from service.contract.errors import ArtifactError
from service.pipeline.champion import KeptChampion


@dataclass
class Thing:
    version: str
    closed: bool = False

    async def close(self) -> None:
        self.closed = True


@dataclass
class Registry:
    """Names a champion; opening one waits for `may_open`, and fails for those that are damaged."""

    champion: str | None
    damaged: set[str] = field(default_factory=set)
    opened: list[Thing] = field(default_factory=list)
    tried: list[str] = field(default_factory=list)
    may_open: asyncio.Event = field(default_factory=asyncio.Event)

    async def newest(self) -> tuple[str, Callable[[], Awaitable[Thing]]] | None:
        version = self.champion
        if version is None:
            return None

        async def open_it() -> Thing:
            self.tried.append(version)
            await self.may_open.wait()
            if version in self.damaged:
                raise ArtifactError(f"{version} is damaged.")
            self.opened.append(Thing(version))
            return self.opened[-1]

        return version, open_it


def kept(registry: Registry, **options: Any) -> KeptChampion[Thing]:
    registry.may_open.set()
    return KeptChampion("The thing", registry.newest, **options)


async def test_a_rollback_while_a_newer_one_is_opened_leaves_the_one_in_service() -> None:
    registry = Registry("one")
    champion = kept(registry)
    await champion.refresh()
    registry.champion = "two"
    registry.may_open.clear()
    opening = asyncio.create_task(champion.refresh())
    await asyncio.sleep(0.01)

    registry.champion = "one"
    registry.may_open.set()
    await opening

    first, second = registry.opened
    assert (champion.version, champion.problem) == ("one", None)
    assert (first.closed, second.closed) == (False, True)


async def test_a_refused_one_is_tried_again_after_pauses_that_grow() -> None:
    registry = Registry("one")
    champion = kept(registry, longest_pause_s=60)
    await champion.refresh()
    registry.champion, registry.damaged = "two", {"two"}

    began = time.monotonic()
    while time.monotonic() - began < 1.5:
        await champion.refresh()
        await asyncio.sleep(0.01)

    assert registry.tried == ["one", "two", "two"]  # at 0 s and after 1 s; then after 2 s more
    assert (champion.version, champion.problem) == ("one", "two is damaged.")


async def test_another_version_is_not_kept_waiting_by_a_refused_one() -> None:
    registry = Registry("one", damaged={"two"})
    champion = kept(registry, longest_pause_s=60)
    await champion.refresh()
    for version in ("two", "three"):
        registry.champion = version
        await champion.refresh()

    assert (champion.version, champion.problem) == ("three", None)


async def test_after_a_rollback_a_refused_one_is_no_problem_any_more() -> None:
    registry = Registry("one", damaged={"two"})
    champion = kept(registry, longest_pause_s=60)
    await champion.refresh()
    registry.champion = "two"
    await champion.refresh()
    registry.champion = "one"
    await champion.refresh()

    assert (champion.version, champion.problem) == ("one", None)


async def test_the_old_one_is_closed_after_its_requests_and_at_the_end() -> None:
    registry = Registry("one")
    champion = kept(registry, close_after_s=0.05)
    for version in ("one", "two", "three"):
        registry.champion = version
        await champion.refresh()
    at_once = [thing.closed for thing in registry.opened]
    await asyncio.sleep(0.15)
    later = [thing.closed for thing in registry.opened]
    await champion.close()

    assert (at_once, later) == ([False] * 3, [True, True, False])
    assert all(thing.closed for thing in registry.opened)


async def test_a_champion_that_is_gone_serves_on_unless_it_may_end() -> None:
    registry = Registry("one")
    stays, ends = kept(registry, close_after_s=0.0), kept(registry, close_after_s=0.0, may_end=True)
    for champion in (stays, ends):
        await champion.refresh()

    registry.champion = None
    for champion in (stays, ends):
        await champion.refresh()
    await asyncio.sleep(0.01)

    assert (stays.version, ends.version) == ("one", None)
    assert [thing.closed for thing in registry.opened] == [False, True]
    registry.champion = "one"
    await ends.refresh()
    assert ends.version == "one"
    await stays.close()
    await ends.close()
