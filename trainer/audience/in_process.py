"""A simulated log at full speed: an engine writes lists, people click, and the rows become a snapshot.

It knows neither the service nor its pipeline: a list is what the engine wrote, parsed, without repetitions. The true
probabilities, which no log has, stand in a file beside the snapshot.
"""

import asyncio
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from service.contract.engine import Engine, Sampling
from service.contract.policy import Policy
from service.contract.progress import Report
from service.contract.query_text import match_key
from service.contract.snapshot import composed_snapshot
from service.contract.tables import DEFAULT_ARM, clicks, impressions, searches
from service.contract.tasks import get_task
from service.contract.types import ClickKind, Origin, PromptContext, ServedBy
from trainer.audience.audience import Audience
from trainer.audience.scene import Scene
from trainer.audience.visit import Reaction, Visit
from trainer.encoding import PROMPT_BUDGET

_MAX_TOKENS = 128
_IMPRESSIONS_A_PERSON = 5  # on average, in the whole window
_AT_ONCE = 256
_READING, _TYPING = timedelta(seconds=3), timedelta(seconds=4)


@dataclass(frozen=True, slots=True)
class Shown:
    """A list: its queries and auxiliary texts, which policy wrote it from what prompt, and the sum of log-probabilities."""

    queries: tuple[str, ...]
    texts: dict[str, str] = field(default_factory=dict)
    policy_version: str | None = None
    fingerprint: str = ""
    prompt_tokens: int = 0
    sampling: dict[str, Any] = field(default_factory=dict)


class Lister(Protocol):
    """Whatever writes a list for a scene."""

    async def __call__(self, scene: Scene, rng: Random) -> Shown:
        """The list that people in `scene` are shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig:
    """What to simulate. `drift`: taste turns from the first day on. `expected`: also the mean over 200 people."""

    task: str
    impressions: int
    since: datetime
    days: int
    seed: int = 0
    drift: bool = False
    expected: bool = False


def written_by(engine: Engine, policy: Policy) -> Lister:
    """Lists that `policy` writes, sampled as the policy says, as serving samples them. The engine is started already."""
    tokenizer, decoding = policy.tokenizer, asdict(policy.decoding)
    logged = {**decoding, "max_tokens": _MAX_TOKENS, "n": 1}

    async def lister(scene: Scene, rng: Random) -> Shown:
        task = get_task(scene.task)
        prompt = task.render(scene.context, tokenizer, budget=PROMPT_BUDGET)
        seed = rng.getrandbits(31)
        sampling = Sampling(max_tokens=_MAX_TOKENS, seed=seed, stop_token_ids=tokenizer.eos_ids, **decoding)
        [completion] = await engine.generate(f"simulate-{rng.getrandbits(60)}", prompt.token_ids, sampling)
        text = tokenizer.decode(completion.token_ids)
        parsed = task.parse(text, n=scene.context.n, separator=tokenizer.format.separator)
        return Shown(
            queries=parsed.queries,
            texts=dict(parsed.texts),
            policy_version=policy.version,
            fingerprint=task.fingerprint(tokenizer.format),
            prompt_tokens=len(prompt.token_ids),
            sampling={**logged, "seed": seed},
        )

    return lister


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
    wanted, rows, which = config.impressions // config.days, _Rows(), 0
    while len(rows.impressions) < wanted:
        group = [_visit(lister, audience, config, day, number, each) for each in range(which, which + _AT_ONCE)]
        for visited in await asyncio.gather(*group):
            rows.add(visited)
        which += _AT_ONCE
    return rows.first(wanted)


async def _visit(
    lister: Lister, audience: Audience, config: LogConfig, day: datetime, number: int, which: int
) -> _Rows:
    rng = Random(f"{config.seed}:{config.task}:{number}:{which}")
    visit = Visit(audience, config.task, rng, day=float(number) if config.drift else 0.0)
    people = max(1, config.impressions // _IMPRESSIONS_A_PERSON)
    who = {"user_id": f"u{rng.randrange(people):07d}", "session_id": f"s{config.seed}-{number}-{which}", "locale": "en"}
    at = day + timedelta(seconds=rng.uniform(0, 86_000))
    rows = _Rows()
    while (scene := visit.scene) is not None:
        origin, shown = visit.origin, await lister(scene, rng)
        reaction = visit.see(shown.queries, shown.texts)
        at += timedelta(seconds=rng.uniform(5, 60))
        name = f"{int(at.timestamp() * 1000):012x}{rng.getrandbits(80):020x}"
        if scene.context.query:
            rows.searches.append(_search(name, at, scene.context.query, origin, who))
        if reaction.typed:
            rows.searches.append(_search(f"{name}-typed", at + _TYPING, reaction.typed, Origin.TYPED, who))
        if shown.queries:
            rows.impressions.append(_impression(name, at, scene, shown, who))
            rows.clicks += [_click(name, at + _READING, scene.task, position, shown) for position in reaction.clicked]
            rows.truth += _truth(name, audience, config, float(number), scene, shown, reaction, rng)
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
        "context": _context(scene.context),
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


def _context(context: PromptContext) -> dict[str, Any]:
    """The JSON of a context, as the service logs it."""
    history = [{"source": event.source.value, "text": event.text, "at": None} for event in context.history]
    return {
        "session": list(context.session),
        "history": history,
        "answer": context.answer,
        "documents": list(context.documents),
        "co_queries": list(context.co_queries),
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
    config: LogConfig,
    day: float,
    scene: Scene,
    shown: Shown,
    reaction: Reaction,
    rng: Random,
) -> list[dict[str, Any]]:
    around = (shown.texts.get("prefix", ""), shown.texts.get("suffix", ""))
    since = day if config.drift else 0.0
    expected = (
        audience.expected_p_click(scene, shown.queries, rng, around=around, day=since)
        if config.expected
        else reaction.p_click
    )
    return [
        {"impression_id": name, "position": position, "p_click": p, "expected": e if config.expected else None}
        for position, (p, e) in enumerate(zip(reaction.p_click.tolist(), expected.tolist(), strict=True), 1)
    ]
