"""The prompts that a policy is aligned on: distinct contexts of the impressions of some days.

It knows nothing about what was shown or clicked there.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date

import pyarrow.compute as pc
import pyarrow.parquet as pq

from service.contract.errors import ConfigurationError
from service.contract.logged_context import as_whole, from_log
from service.contract.snapshot import Snapshot
from service.contract.tasks import get_task
from service.contract.types import PromptContext

_COLUMNS = ["task", "query", "context", "n_shown"]
_FETCHED = 2_000
_KEPT_AT_LEAST = 10_000  # contexts in memory before those that cannot be among the wanted are let go


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignmentPrompt:
    """One prompt to search lists for. `prompt_id` is the hash of task and context."""

    prompt_id: str
    task: str
    context: PromptContext


def prompt_of(task: str, context: PromptContext) -> AlignmentPrompt:
    """The prompt of `context`, which has the same id wherever it was logged."""
    return AlignmentPrompt(prompt_id=_digest(task, context), task=task, context=context)


def prompts_of(
    snapshot: Snapshot, task: str, days: Sequence[date], *, most: int, seed: int = 0
) -> list[AlignmentPrompt]:
    """At most `most` distinct contexts of the lists of `task` on these UTC days, in an order that a hash decides.

    The same log and seed give the same prompts, and a smaller `most` their beginning. Where one context was shown
    lists of several lengths it asks for the longest. Contexts that an erasure emptied are left out.

    Raises:
        ConfigurationError: There is no such task, or no list of it on these days.
    """
    kept: dict[str, PromptContext] = {}
    for context in _contexts(snapshot, get_task(task).name, days):
        order = _digest(seed, task, replace(context, n=0))
        if order not in kept or kept[order].n < context.n:
            kept[order] = context
        if len(kept) > 2 * max(most, _KEPT_AT_LEAST):
            kept = _first(kept, most)
    if not kept:
        raise ConfigurationError(
            f"The snapshot {snapshot.directory} has no readable list of task {task!r} on the days "
            f"{', '.join(day.isoformat() for day in days) or '(none)'}, so there is nothing to align on. Name other days, "
            "or take a snapshot of a window in which the task was served."
        )
    return [prompt_of(task, context) for context in _first(kept, most).values()]


def learnt_and_tested(
    snapshot: Snapshot, task: str, *, learnt: int, tested: int, learnt_days: int, seed: int = 0
) -> tuple[list[AlignmentPrompt], list[AlignmentPrompt]]:
    """Prompts to learn from, of the `learnt_days` before the last day, and prompts of the last, none of which is among them.

    Raises:
        ConfigurationError: There are lists on fewer than two days, or none of the task.
    """
    days = list(snapshot.files("impressions"))
    if len(days) < 2:
        raise ConfigurationError(
            f"{snapshot.directory} has lists on {len(days)} days, and alignment needs two: prompts of some to learn from, "
            "and those of the last to measure on. Take a longer snapshot."
        )
    last = prompts_of(snapshot, task, days[-1:], most=tested, seed=seed)
    return without(last, snapshot, task, days[-1 - learnt_days : -1], most=learnt, seed=seed), last


def without(
    known: Sequence[AlignmentPrompt], snapshot: Snapshot, task: str, days: Sequence[date], *, most: int, seed: int = 0
) -> list[AlignmentPrompt]:
    """`prompts_of` these days that are not `known`."""
    ids = {prompt.prompt_id for prompt in known}
    found = prompts_of(snapshot, task, days, most=most + len(ids), seed=seed)
    return [prompt for prompt in found if prompt.prompt_id not in ids][:most]


def _first(kept: dict[str, PromptContext], most: int) -> dict[str, PromptContext]:
    return dict(sorted(kept.items())[:most])


def _contexts(snapshot: Snapshot, task: str, days: Sequence[date]) -> Iterator[PromptContext]:
    needs_query, most_n = get_task(task).needs_query, get_task(task).max_n
    for day, path in snapshot.files("impressions").items():
        if day not in days:
            continue
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_FETCHED, columns=_COLUMNS):
                wanted = pc.and_(pc.equal(batch["task"], task), pc.greater(batch["n_shown"], 0))
                for row in batch.filter(wanted).to_pylist():
                    context = _context(row["query"], row["context"], min(row["n_shown"], most_n))
                    if context and (context.query or (not needs_query and (context.session or context.history))):
                        yield context


def _context(query: str | None, logged: str, n: int) -> PromptContext | None:
    try:
        return from_log(json.loads(logged), query=query, n=n)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _digest(*parts: object) -> str:
    values = [as_whole(part) if isinstance(part, PromptContext) else part for part in parts]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:20]
