"""Prompts of `predict` from a log of people: what somebody did, and the newest queries that they typed after it (TPPO 4.1.1).

It knows no kind of log by name.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from random import Random
from typing import Any

from service.contract.errors import ConfigurationError
from service.contract.query_text import match_key, one_line
from service.contract.tasks import get_task
from service.contract.types import EventSource, HistoryEvent, PromptContext
from trainer.audience.audience import Audience
from trainer.audience.scenes import draw_scene
from trainer.histories import events_of
from trainer.prompt_files import KnownPrompt, share_of
from trainer.prompts import prompt_of

TASK = "predict"
_FETCHED = 10_000
_LONGEST = 160  # characters of an event; an address or a pasted page is no wish


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryConfig:
    """Which people and what of them; the defaults are the paper's on AOL.

    Attributes:
        newest: queries to predict; the paper has 3, and 10 of its industrial log.
        least_history: events that must stand before them.
        most_history: of those, the newest are kept.
        since, until: the time in which the queries to predict were typed, [since, until); None has no bound.
        people: share of all people, by a hash: from the first to the second number.
    """

    newest: int = 3
    least_history: int = 2
    most_history: int = 30
    since: datetime | None = None
    until: datetime | None = None
    people: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        """Refuse what no task can predict.

        Raises:
            ConfigurationError: A number is out of bounds; the text says which.
        """
        most = get_task(TASK).max_n
        if not (1 <= self.newest <= most and 1 <= self.least_history <= self.most_history):
            raise ConfigurationError(
                f"{self.newest} queries after {self.least_history} to {self.most_history} events cannot be asked for. Predict "
                f"1 to {most} queries after at least 1 event."
            )
        if not 0.0 <= self.people[0] < self.people[1] <= 1.0:
            raise ConfigurationError(
                f"{self.people} is no share of people. Give two numbers from 0 to 1, the smaller first."
            )


@dataclass(frozen=True, slots=True)
class Event:
    """Something that a person did."""

    at: datetime
    source: EventSource
    text: str


def prompts_from_log(kind: str, log: Path, config: HistoryConfig, *, most: int | None = None) -> list[KnownPrompt]:
    """One prompt a person at most, in an order that a hash of the person decides; of those who did the same, the first one's.

    Rows that nobody can read are left out.

    Raises:
        ConfigurationError: There is no such kind of log, it cannot be read, or nobody has done enough.
    """
    found = []
    for person, events in _people(kind, log):
        if config.people[0] <= share_of(person) < config.people[1] and (each := predicted(events, config)):
            found.append((share_of(f"order:{person}"), each))
    if not found:
        raise ConfigurationError(
            f"In {log} nobody typed {config.newest} queries after {config.least_history} other events in that time. Take a "
            "longer window, or ask for fewer."
        )
    in_order = [each for _, each in sorted(found, key=lambda pair: pair[0])]
    distinct = {each.prompt.prompt_id: each for each in reversed(in_order)}
    return list(distinct.values())[::-1][:most]


def simulated_prompts(count: int, *, newest: int = 3, seed: int = 0) -> list[KnownPrompt]:
    """Prompts of people of the first audience, with what they need; the targets are how they would type it."""
    audience, rng = Audience(), Random(f"prompts:{seed}")
    found: dict[str, KnownPrompt] = {}
    while len(found) < count:
        scene = draw_scene(TASK, audience.world, rng)
        scene = replace(scene, context=replace(scene.context, n=newest))
        prompt = prompt_of(TASK, scene.context)
        wanted = rng.choices(scene.needs, scene.chances, k=4 * newest)
        said = list(dict.fromkeys(audience.world.say(need, rng) for need in dict.fromkeys(wanted)))
        found[prompt.prompt_id] = KnownPrompt(prompt=prompt, targets=tuple(said[:newest]), scene=scene)
    return list(found.values())


def predicted(events: Iterable[Event], config: HistoryConfig) -> KnownPrompt | None:
    """The prompt of one person, whose events are given oldest first; None where they did not do enough."""
    kept = _without_repeats([each for each in events if config.until is None or each.at < config.until])
    searches = [place for place, each in enumerate(kept) if each.source is EventSource.SEARCH]
    if len(searches) < config.newest:
        return None
    first = searches[-config.newest]
    if first < config.least_history or (config.since is not None and kept[first].at < config.since):
        return None
    history = [HistoryEvent(source=each.source, text=each.text, at=each.at) for each in kept[:first]]
    context = PromptContext(n=config.newest, history=tuple(history[-config.most_history :]))
    return KnownPrompt(
        prompt=prompt_of(TASK, context), targets=tuple(kept[place].text for place in searches[-config.newest :])
    )


def _without_repeats(events: Sequence[Event]) -> list[Event]:
    """Events whose text says something else than the one before of its source, and no query of an earlier time twice."""
    kept: list[Event] = []
    last: dict[EventSource, str] = {}
    for each in events:
        key = match_key(each.text)
        if key and last.get(each.source) != key:
            last[each.source] = key
            kept.append(each)
    return kept


def _people(kind: str, log: Path) -> Iterator[tuple[str, list[Event]]]:
    import duckdb

    if not log.exists():
        raise ConfigurationError(f"There is no log at {log}. Check the path.")
    statement = f"""
        SELECT person, moment, source, text FROM ({events_of(kind)})
        WHERE person IS NOT NULL AND moment IS NOT NULL AND text IS NOT NULL AND length(text) <= {_LONGEST}
        ORDER BY person, moment, source = 'click', text
    """  # noqa: S608  # the statement of a kind is ours
    with duckdb.connect() as database:
        database.execute("SET TimeZone = 'UTC'")
        try:
            rows = database.execute(statement, {"log": str(log)})
            for person, listed in groupby(_rows(rows), key=lambda row: row[0]):
                yield (
                    str(person),
                    [
                        Event(at.replace(tzinfo=UTC), EventSource(source), one_line(text))
                        for _, at, source, text in listed
                    ],
                )
        except duckdb.Error as error:
            raise ConfigurationError(
                f"{log} does not read as a log of kind {kind} ({one_line(str(error))[:200]}). Check the file, or give "
                "another kind."
            ) from None


def _rows(found: Any) -> Iterator[tuple[str, datetime, str, str]]:
    while batch := found.fetchmany(_FETCHED):
        yield from batch
