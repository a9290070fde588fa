"""A simulated log at full speed: an engine writes lists, people click, and the rows become a snapshot.

It knows neither the service nor its pipeline: a list is what the engine wrote, parsed, without repetitions. The true
probabilities, which no log has, stand in a file beside the snapshot.
"""

import asyncio
from collections import deque
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from service.contract.logged_context import as_logged
from service.contract.progress import Report
from service.contract.query_text import match_key
from service.contract.snapshot import composed_snapshot
from service.contract.tables import DEFAULT_ARM, clicks, impressions, searches
from service.contract.types import ClickKind, Origin, ServedBy
from trainer.audience.audience import Audience
from trainer.audience.listers import Lister, Shown
from trainer.audience.scene import Scene
from trainer.audience.scenes import draw_scene
from trainer.audience.visit import Reaction, Visit

_IMPRESSIONS_A_PERSON = 5  # on average, in the whole window
_AT_ONCE = 256
_READING, _TYPING = timedelta(seconds=3), timedelta(seconds=4)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig:
    """What to simulate.

    `people_a_list`: so many people come to the same scene and see the same list, as with a list from a cache; above 1
    a visit is one list. `drift`: taste turns from the first day on. `expected_days`: on so many days, the last ones,
    the truth has also the mean over 200 people.
    """

    task: str
    impressions: int
    since: datetime
    days: int
    seed: int = 0
    people_a_list: int = 1
    drift: bool = False
    expected_days: int = 0


async def simulate_log(
    lister: Lister, audience: Audience, config: LogConfig, output: Path, *, report: Report | None = None
) -> Path:
    """Write the snapshot `output`, and beside it `<output>.truth.parquet`; returns the latter.

    Lists without a query are left out, as a product shows none. Each day has the same number of impressions.

    Raises:
        ArtifactError: `output` is there already.
    """
    until = config.since + timedelta(days=config.days)
    truth = output.with_name(f"{output.name}.truth.parquet")
    schema = pa.schema(
        [
            ("impression_id", pa.string()),
            ("position", pa.int64()),
            ("p_click", pa.float64()),
            ("expected", pa.float64()),
        ]
    )
    with composed_snapshot(output, config.since, until) as write_day, pq.ParquetWriter(truth, schema) as true:
        for number in range(config.days):
            day = config.since + timedelta(days=number)
            rows = await _one_day(lister, audience, config, day, number)
            for table, listed in ((searches, rows.searches), (impressions, rows.impressions), (clicks, rows.clicks)):
                write_day(table, day.date(), listed)
            true.write_table(pa.Table.from_pylist(rows.truth, schema))
            if report:
                report((number + 1) / config.days, {"impressions": float((number + 1) * len(rows.impressions))})
    return truth


@dataclass(slots=True)
class _Rows:
    impressions: list[dict[str, Any]] = field(default_factory=list)
    clicks: list[dict[str, Any]] = field(default_factory=list)
    searches: list[dict[str, Any]] = field(default_factory=list)
    truth: list[dict[str, Any]] = field(default_factory=list)

    def add(self, other: "_Rows") -> None:
        for mine, more in zip(self._lists(), other._lists(), strict=True):
            mine.extend(more)

    def first(self, wanted: int) -> "_Rows":
        """The first `wanted` impressions, with what belongs to them."""
        kept = {row["impression_id"] for row in self.impressions[:wanted]}
        mine = [[row for row in rows if row["impression_id"] in kept] for rows in self._lists()]
        return _Rows(*mine)

    def _lists(self) -> tuple[list[dict[str, Any]], ...]:
        return (self.impressions, self.clicks, self.searches, self.truth)


async def _one_day(lister: Lister, audience: Audience, config: LogConfig, day: datetime, number: int) -> _Rows:
    """Visits of one day, many at once; who comes depends on the seed and the day alone."""
    wanted, rows, first = config.impressions // config.days, _Rows(), 0
    under_way: deque[asyncio.Task[_Rows]] = deque()
    try:
        while (missing := wanted - len(rows.impressions)) > 0:
            while len(under_way) < min(_AT_ONCE, -(-missing // config.people_a_list)):
                under_way.append(asyncio.create_task(_scene(lister, audience, config, day, number, first)))
                first += 1
            rows.add(await under_way.popleft())
    finally:
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
    return rows.first(wanted)


async def _scene(
    lister: Lister, audience: Audience, config: LogConfig, day: datetime, number: int, which: int
) -> _Rows:
    """The visits of the people who come to one scene."""
    rng = Random(f"{config.seed}:{config.task}:{number}:{which}")
    scene = draw_scene(config.task, audience.world, rng)
    first = await lister(scene, rng)
    rows = _Rows()
    for person in range(config.people_a_list):
        visit = Visit(audience, rng, scene, day=float(number) if config.drift else 0.0)
        people = max(1, config.impressions // _IMPRESSIONS_A_PERSON)
        session = f"s{config.seed}-{number}-{which}-{person}"
        who = {"user_id": f"u{rng.randrange(people):07d}", "session_id": session, "locale": "en"}
        at = day + timedelta(seconds=rng.uniform(0, 86_000))
        shown = first
        while (now := visit.scene) is not None:
            rows.add(_seen(audience, config, visit, now, shown, who, at, rng))
            if config.people_a_list > 1 or visit.scene is None:
                break
            at += timedelta(seconds=rng.uniform(5, 60))
            shown = await lister(visit.scene, rng)
    return rows


def _seen(
    audience: Audience,
    config: LogConfig,
    visit: Visit,
    scene: Scene,
    shown: Shown,
    who: dict[str, str],
    at: datetime,
    rng: Random,
) -> _Rows:
    """What is logged of one list and of what the person made of it."""
    with_expected = at >= config.since + timedelta(days=config.days - config.expected_days)
    origin, reaction, rows = visit.origin, visit.see(shown.queries, shown.texts), _Rows()
    name = f"{int(at.timestamp() * 1000):012x}{rng.getrandbits(80):020x}"
    if scene.context.query:
        rows.searches.append(_search(name, at, scene.context.query, origin, who))
    if reaction.typed:
        rows.searches.append(_search(f"{name}-typed", at + _TYPING, reaction.typed, Origin.TYPED, who))
    if shown.queries:
        rows.impressions.append(_impression(name, at, scene, shown, who))
        rows.clicks += [_click(name, at + _READING, scene.task, position, shown) for position in reaction.clicked]
        rows.truth += _truth(name, audience, with_expected, visit.day, scene, shown, reaction, rng)
    return rows


def _impression(name: str, at: datetime, scene: Scene, shown: Shown, who: dict[str, str]) -> dict[str, Any]:
    listed = [
        {
            "text": text,
            "position": position,
            "source": ServedBy.MODEL.value,
            "logprob": None,
            "score": None,
            "propensity": None,
        }
        for position, text in enumerate(shown.queries, 1)
    ]
    return {
        **who,
        "impression_id": name,
        "at": at,
        "task": scene.task,
        "query": scene.context.query,
        "context": as_logged(scene.context),
        "prompt_fingerprint": shown.fingerprint,
        "prompt_tokens": shown.prompt_tokens,
        "arm": DEFAULT_ARM,
        "policy_version": shown.policy_version,
        "ctr_version": None,
        "cor_version": None,
        "sampling": shown.sampling,
        "candidates": listed,
        "texts": shown.texts,
        "n_shown": len(listed),
        "served_by": ServedBy.MODEL.value,
        "degraded_reason": None,
        "timings": {},
    }


def _click(name: str, at: datetime, task: str, position: int, shown: Shown) -> dict[str, Any]:
    return {
        "impression_id": name,
        "position": position,
        "kind": ClickKind.CLICK.value,
        "at": at,
        "client_at": None,
        "query": None,
        "task": task,
        "arm": DEFAULT_ARM,
        "policy_version": shown.policy_version,
    }


def _search(name: str, at: datetime, query: str, origin: Origin, who: dict[str, str]) -> dict[str, Any]:
    return {
        **who,
        "search_id": name,
        "at": at,
        "query": query,
        "match_key": match_key(query),
        "origin": origin.value,
        "impression_id": name.removesuffix("-typed"),
    }


def _truth(
    name: str,
    audience: Audience,
    with_expected: bool,
    day: float,
    scene: Scene,
    shown: Shown,
    reaction: Reaction,
    rng: Random,
) -> list[dict[str, Any]]:
    around = (shown.texts.get("prefix", ""), shown.texts.get("suffix", ""))
    expected: list[float | None] = [None] * len(shown.queries)
    if with_expected:
        expected = list(audience.expected_p_click(scene, shown.queries, rng, around=around, day=day).tolist())
    return [
        {"impression_id": name, "position": position, "p_click": p, "expected": e}
        for position, (p, e) in enumerate(zip(reaction.p_click.tolist(), expected, strict=True), 1)
    ]
