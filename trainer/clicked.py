"""Lists of a log as material for methods that learn from clicks themselves (GQR B.2, the rows `_clk`).

It knows nothing about predictors or training. A click or its absence counts as it was logged, list by list: that it is noisy
is what these methods are compared for.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from service.contract.engine import Engine
from service.contract.errors import NotEnoughData
from service.contract.logged_context import as_whole, from_log
from service.contract.policy import Policy
from service.contract.query_text import match_key, one_line
from service.contract.snapshot import Snapshot
from service.contract.tasks import get_task
from service.contract.tokenizer import TextFormat
from service.contract.types import ClickKind, PromptContext, ServedBy
from trainer.assess import Written, write
from trainer.prompts import AlignmentPrompt, prompt_of

LEAST = 64
"""Clicked lists below which nothing is trained: four batches."""

_LATE = timedelta(days=7)  # a click token is valid for so long by default
_FETCHED = 2_000
_KEPT_AT_LEAST = 10_000  # lists in memory before those that cannot be among the wanted are let go
_COLUMNS = ["impression_id", "task", "query", "context", "candidates", "texts", "n_shown", "served_by"]
_SCHEMA = pa.schema([(name, pa.string()) for name in ("prompt_id", "task", "context", "chosen", "rejected")])
_TRIES = 4

Fill = Callable[[PromptContext], PromptContext]
"""What puts into a logged context what a policy is to read besides, such as co-occurrence queries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A list that a policy wrote and a person saw. `clicked`: the queries that were clicked."""

    prompt: AlignmentPrompt
    queries: tuple[str, ...]
    texts: dict[str, str]
    clicked: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """Lists with a click, and lists without one, each at most as many as were wanted, in an order that a hash decides."""

    clicked: Sequence[Seen]
    unclicked: Sequence[Seen]


def feedback(
    snapshot: Snapshot,
    task: str,
    days: Sequence[date],
    *,
    most: int,
    seed: int = 0,
    fill: Fill = lambda context: context,
) -> Feedback:
    """At most `most` clicked lists of `task` on these UTC days, and as many unclicked ones (N_pos and N_neg).

    Only lists that a model wrote. Lists that an erasure emptied are left out.

    Raises:
        NotEnoughData: Fewer than `LEAST` lists were clicked; the text has the counts.
    """
    kept: dict[bool, dict[str, Seen]] = {True: {}, False: {}}
    seen = 0
    for name, listed in _lists(snapshot, get_task(task).name, days):
        seen += 1
        order = hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()
        one_kind = kept[bool(listed.clicked)]
        one_kind[order] = listed
        if len(one_kind) > 2 * max(most, _KEPT_AT_LEAST):
            kept[bool(listed.clicked)] = dict(sorted(one_kind.items())[:most])
    clicked, unclicked = ([each for _, each in sorted(lists.items())[:most]] for lists in (kept[True], kept[False]))
    if len(clicked) < LEAST:
        raise NotEnoughData(
            f"Not enough data: of {seen} lists of task {task!r} on {len(days)} days {len(clicked)} were clicked, and "
            f"{LEAST} are needed. Take a longer snapshot, or learn from a click predictor, which uses every list."
        )
    filled = [[_filled(each, fill) for each in lists] for lists in (clicked, unclicked[: len(clicked)])]
    return Feedback(clicked=filled[0], unclicked=filled[1])


def write_single_lists(found: Feedback, text_format: TextFormat, path: Path) -> int:
    """A file of clicked lists as chosen ones, and of unclicked lists, of other prompts, as rejected ones. Returns the rows."""
    rows = [_row(each.prompt, _response(each, text_format), None) for each in found.clicked]
    rows += [_row(each.prompt, None, _response(each, text_format)) for each in found.unclicked]
    return _write(rows, path)


async def write_click_pairs(found: Feedback, engine: Engine, policy: Policy, path: Path, *, seed: int = 0) -> int:
    """A file of pairs: the clicked list, and one that `policy` writes now without the clicked query. Returns the pairs.

    Where every one of four lists has a clicked query, the prompt gives no pair.

    Raises:
        NotEnoughData: Fewer than `LEAST` pairs are left.
    """
    text_format = policy.tokenizer.format
    missing, rows = list(found.clicked), list[dict[str, Any]]()
    for attempt in range(_TRIES):
        written = await write(engine, policy, [each.prompt for each in missing], seed=seed + attempt)
        others = [_other(each, one, text_format) for each, one in zip(missing, written, strict=True)]
        rows += [
            _row(each.prompt, _response(each, text_format), other)
            for each, other in zip(missing, others, strict=True)
            if other
        ]
        missing = [each for each, other in zip(missing, others, strict=True) if not other]
    if len(rows) < LEAST:
        raise NotEnoughData(
            f"Not enough data: of {len(found.clicked)} clicked lists {len(rows)} have a list beside them without the "
            f"clicked query, and {LEAST} are needed. Usually the policy always writes the same: raise its temperature."
        )
    return _write(rows, path)


def _other(seen: Seen, written: Written, text_format: TextFormat) -> str | None:
    """The response that was written now, unless it has a clicked query, or cannot be read."""
    clicked = {match_key(query) for query in seen.clicked}
    if written.problem or clicked & {match_key(query) for query in written.queries}:
        return None
    return get_task(seen.prompt.task).response(list(written.queries), dict(written.texts), text_format)


def _response(seen: Seen, text_format: TextFormat) -> str:
    return get_task(seen.prompt.task).response(list(seen.queries), seen.texts, text_format)


def _filled(seen: Seen, fill: Fill) -> Seen:
    return replace(seen, prompt=prompt_of(seen.prompt.task, fill(seen.prompt.context)))


def _lists(snapshot: Snapshot, task: str, days: Sequence[date]) -> Iterator[tuple[str, Seen]]:
    clicked, auxiliary = _clicks(snapshot, days), get_task(task).auxiliary
    for day, path in snapshot.files("impressions").items():
        if day not in days:
            continue
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_FETCHED, columns=_COLUMNS):
                wanted = pc.and_(pc.equal(batch["task"], task), pc.equal(batch["served_by"], ServedBy.MODEL.value))
                for row in batch.filter(wanted).to_pylist():
                    found = _seen(row, clicked.get(row["impression_id"], set()), auxiliary)
                    if found:
                        yield row["impression_id"], found


def _clicks(snapshot: Snapshot, days: Sequence[date]) -> dict[str, set[int]]:
    """Clicked positions by list, also of clicks that came days later."""
    found: dict[str, set[int]] = defaultdict(set)
    first, last = min(days, default=date.min), max(days, default=date.min) + _LATE
    for day, path in snapshot.files("clicks").items():
        if first <= day <= last:
            rows = pq.read_table(path, columns=["impression_id", "position", "kind"])
            clicks = rows.filter(pc.equal(rows["kind"], ClickKind.CLICK.value))
            for name, position in zip(*(clicks[c].to_pylist() for c in ("impression_id", "position")), strict=True):
                found[name].add(position)
    return found


def _seen(row: dict[str, Any], clicked: set[int], auxiliary: Sequence[str]) -> Seen | None:
    try:
        candidates = sorted(json.loads(row["candidates"]), key=lambda each: int(each["position"]))
        texts = {name: one_line(json.loads(row["texts"])[name]) for name in auxiliary}
        queries = tuple(one_line(each["text"]) for each in candidates)
        context = from_log(json.loads(row["context"]), query=row["query"], n=row["n_shown"])
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    if not queries or not all(queries) or not (context.query or context.session or context.history):
        return None
    chosen = tuple(query for k, query in enumerate(queries, 1) if k in clicked)
    return Seen(prompt=prompt_of(row["task"], context), queries=queries, texts=texts, clicked=chosen)


def _row(prompt: AlignmentPrompt, chosen: str | None, rejected: str | None) -> dict[str, Any]:
    context = json.dumps(as_whole(prompt.context), sort_keys=True, ensure_ascii=False)
    return {
        "prompt_id": prompt.prompt_id,
        "task": prompt.task,
        "context": context,
        "chosen": chosen,
        "rejected": rejected,
    }


def _write(rows: Sequence[dict[str, Any]], path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}")
    pq.write_table(pa.Table.from_pylist(list(rows), _SCHEMA), draft, compression="zstd")
    draft.replace(path)
    return len(rows)
