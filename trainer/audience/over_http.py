"""The audience talks to a running service over HTTP, as a product would: /recommend, then /click.

Open loop: people come when they come, however slowly the service answers the others. It knows nothing about how lists
are made; what it sees is what a product sees.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import httpx

from service.contract.errors import ConfigurationError
from service.contract.types import ClickKind
from trainer.audience.audience import Audience
from trainer.audience.scene import Scene
from trainer.audience.scenes import draw_scene
from trainer.audience.visit import Reaction, Visit

_TIMEOUT_S = 15.0
_THINKS_S = 2.0  # at most, over a list, whatever the length of a simulated day
_TELL_EVERY_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CrowdConfig:
    """Who comes. Each of `people` visits once a day, at a random time; a simulated day takes `day_s` real seconds.

    `shares`: of the tasks whose component a visit meets. `seed` decides who comes, when, and what they want. `real`:
    scenes that visits of `suggest` take, instead of those of the catalogue.
    """

    url: str
    people: int
    days: int
    day_s: float
    shares: dict[str, float]
    seed: int = 0
    drift: bool = False
    real: Sequence[Scene] = ()


@dataclass(slots=True)
class Tally:
    """What happened so far.

    `expected_clicks`: the sum of the true probabilities that a list gets a click; `clicked` counts those that did.
    """

    visits: int = 0
    lists: int = 0
    clicked: int = 0
    events: int = 0
    expected_clicks: float = 0.0
    rungs: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    waited_ms: list[float] = field(default_factory=list)

    def figures(self) -> dict[str, float]:
        """The tally in numbers, for a progress line."""
        waited = sorted(self.waited_ms)
        return {
            "visits": self.visits,
            "lists": self.lists,
            "simulated CTR": round(self.clicked / max(1, self.lists), 4),
            "true CTR": round(self.expected_clicks / max(1, self.lists), 4),
            "p50 ms": round(waited[len(waited) // 2], 1) if waited else 0.0,
            "failures": sum(self.failures.values()),
        }


async def simulate_crowd(
    audience: Audience, config: CrowdConfig, report: Callable[[float, dict[str, float]], None]
) -> Tally:
    """Let the crowd come to the service at `config.url`; returns when the last one has left.

    Raises:
        ConfigurationError: No service answers there.
    """
    tally, began = Tally(), time.monotonic()
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
    async with httpx.AsyncClient(base_url=config.url, timeout=_TIMEOUT_S, limits=limits) as client:
        await _must_answer(client, config.url)
        arrivals = sorted(_arrivals(config))
        telling = asyncio.create_task(_tell(tally, len(arrivals), report))
        try:
            async with asyncio.TaskGroup() as visits:
                for at_s, day, person in arrivals:
                    await asyncio.sleep(max(0.0, began + at_s - time.monotonic()))
                    visits.create_task(_visit(client, audience, config, tally, day, person))
        finally:
            telling.cancel()
    report(1.0, tally.figures())
    return tally


def _arrivals(config: CrowdConfig) -> list[tuple[float, int, int]]:
    rng = Random(f"arrivals:{config.seed}")
    return [
        ((day + rng.random()) * config.day_s, day, person)
        for day in range(config.days)
        for person in range(config.people)
    ]


async def _must_answer(client: httpx.AsyncClient, url: str) -> None:
    try:
        (await client.get("/livez")).raise_for_status()
    except httpx.HTTPError as error:
        raise ConfigurationError(
            f"No nextquery service answers at {url} ({type(error).__name__}). Start one with `make run`, or give its "
            "address with --url."
        ) from None


async def _tell(tally: Tally, visits: int, report: Callable[[float, dict[str, float]], None]) -> None:
    while True:
        await asyncio.sleep(_TELL_EVERY_S)
        report(min(0.999, tally.visits / visits), tally.figures())


async def _visit(
    client: httpx.AsyncClient, audience: Audience, config: CrowdConfig, tally: Tally, day: int, person: int
) -> None:
    rng = Random(f"{config.seed}:{day}:{person}")
    task = rng.choices(list(config.shares), list(config.shares.values()))[0]
    real = config.real if task == "suggest" else ()
    scene = rng.choice(real) if real else draw_scene(task, audience.world, rng)
    visit = Visit(audience, rng, scene, day=float(day) if config.drift else 0.0)
    who = {"user_id": f"sim{config.seed}-{person}", "session_id": f"sim{config.seed}-{day}-{person}"}
    try:
        while (now := visit.scene) is not None:
            await _one_list(client, visit, now, who, tally, audience)
            await asyncio.sleep(rng.uniform(0.0, min(_THINKS_S, config.day_s / 20)))
    except httpx.HTTPStatusError as refused:
        tally.failures[f"HTTP {refused.response.status_code}"] += 1
    except httpx.HTTPError as error:
        tally.failures[type(error).__name__] += 1
    tally.visits += 1


async def _one_list(
    client: httpx.AsyncClient, visit: Visit, scene: Scene, who: dict[str, str], tally: Tally, audience: Audience
) -> None:
    asked = time.monotonic()
    reply = await client.post("/recommend", json=_request(scene, visit, who))
    reply.raise_for_status()
    tally.waited_ms.append(1000 * (time.monotonic() - asked))
    shown = reply.json()
    queries = [query["text"] for query in shown["queries"]]
    reaction = visit.see(queries, shown["texts"])
    tally.rungs[shown["served_by"]] += 1
    if queries:
        tally.lists += 1
        tally.clicked += bool(reaction.clicked)
        tally.expected_clicks += float(audience.list_click(scene, reaction.p_click[None])[0])
    if events := _events(shown["click_token"], reaction, who, seen=bool(queries)):
        told = await client.post("/click", json={"events": events})
        told.raise_for_status()
        tally.events += len(events)


def _request(scene: Scene, visit: Visit, who: dict[str, str]) -> dict[str, Any]:
    context = scene.context
    body: dict[str, Any] = {"task": scene.task, "n": context.n, "origin": visit.origin.value, **who}
    body["session"] = list(context.session)
    body["history"] = [{"source": event.source.value, "text": event.text} for event in context.history]
    optional = {"query": context.query, "answer": context.answer}
    return body | {name: value for name, value in optional.items() if value}


def _events(token: str, reaction: Reaction, who: dict[str, str], *, seen: bool) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = [{"kind": ClickKind.SEEN.value}] if seen else []
    events += [{"kind": ClickKind.CLICK.value, "position": position} for position in reaction.clicked]
    if reaction.typed:
        events.append({"kind": ClickKind.SUBMIT.value, "query": reaction.typed})
    return [{"click_token": token, **who, **event} for event in events]
