"""Responses of a policy with a verdict for every word of them, as Parquet rows (TPPO 3.2, phase I of Figure 3).

It knows no judge by name and no model. Words and verdicts are kept, which hold for any tokenizer, beside the ids sampled.
"""

import asyncio
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from service.contract.artifact import MANIFEST, manifest_sha256
from service.contract.engine import Engine
from service.contract.errors import ArtifactError, ConfigurationError
from service.contract.logged_context import as_whole, from_whole
from service.contract.policy import Policy
from service.contract.progress import Report
from trainer.audience.scene import Scene
from trainer.candidates.scored_lists import Shards
from trainer.ppo.rollout import Rollout, sample
from trainer.prompt_files import KnownPrompt
from trainer.prompts import AlignmentPrompt
from trainer.word_judges import Asked, Judgement, WordJudge
from trainer.words import Response

_SHARD = 64
_SWAPPED_ONE_IN = 10
_SPENT = b"spent"
_VERDICTS = pa.list_(pa.list_(pa.bool_()))
_SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("task", pa.string()),
        ("context", pa.string()),
        ("ids", pa.list_(pa.int64())),
        ("queries", pa.list_(pa.string())),
        ("words", pa.list_(pa.list_(pa.string()))),
        ("problem", pa.string()),
        ("relevant", _VERDICTS),  # null where the judge came to no verdict
        ("whole", pa.bool_()),
        ("swapped", _VERDICTS),  # of a sample: the verdicts when the queries were shown in reverse, in their own order
        ("swapped_whole", pa.bool_()),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """A response and what a judge said of it. `relevant`: of each word, query by query."""

    prompt: AlignmentPrompt
    ids: tuple[int, ...]
    relevant: tuple[tuple[bool, ...], ...]
    whole: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelReport:
    """What labelling came to.

    Attributes:
        unjudged: responses that the judge came to no verdict about; they are kept, and never learnt from.
        failures: responses that are no whole list.
        relevant_words, relevant: share of the words, and of the responses, that are relevant.
        swapped: responses that were judged again with their queries in reverse.
        swapped_words_agree, swapped_agree: share of their words, and of themselves, that were judged alike; None without any.
        spent: what the judge cost, by name.
    """

    responses: int
    unjudged: int
    failures: int
    words: int
    relevant_words: float
    relevant: float
    swapped: int
    swapped_words_agree: float | None
    swapped_agree: float | None
    spent: Mapping[str, int]


def asked_about(prompt: AlignmentPrompt, response: Response, scene: Scene | None = None) -> Asked:
    """What a judge is shown of a response."""
    words = tuple(
        tuple(word.text for word in response.words if word.query == number) for number in range(len(response.queries))
    )
    return Asked(context=prompt.context, queries=response.queries, words=words, scene=scene)


async def label_to(
    directory: Path,
    prompts: Sequence[KnownPrompt],
    policy: Policy,
    engine: Engine,
    judge: WordJudge,
    *,
    seed: int = 0,
    max_tokens: int = 64,
    report: Report | None = None,
) -> LabelReport:
    """Let `policy` write one response for each prompt at temperature 1, and `judge` judge its words.

    Goes on where a killed run was, part by part. `engine` is started already.

    Raises:
        ConfigurationError: `directory` has labels of other prompts, policy or judge, or cannot be written.
        JudgeError: The judge does not answer at all.
    """
    shards = _shards(directory, prompts, policy, {"judge": judge.name, "seed": seed, "max_tokens": max_tokens})
    known = {each.prompt.prompt_id: each.scene for each in prompts}
    missing = shards.missing()
    for done, number in enumerate(missing, shards.count - len(missing) + 1):
        written = await sample(
            engine, policy, shards.prompts(number), seed=seed, max_tokens=max_tokens, adapter=policy.adapter
        )
        before = dict(judge.spent)
        rows = await asyncio.to_thread(_judged, written, known, judge)
        spent = {name: count - before.get(name, 0) for name, count in judge.spent.items()}
        shards.write(number, _parquet(rows, spent))
        if report:
            judged = [row for row in rows if row["relevant"] is not None]
            report(done / shards.count, {"relevant": sum(row["whole"] for row in judged) / max(1, len(judged))})
    return report_of(directory)


def read_labels(directory: Path) -> list[Label]:
    """The labels of a directory, without responses that no verdict was come to about.

    Raises:
        ArtifactError: There are none, or they cannot be read.
    """
    found = [
        Label(
            prompt=AlignmentPrompt(
                prompt_id=row["prompt_id"], task=row["task"], context=from_whole(json.loads(row["context"]))
            ),
            ids=tuple(row["ids"]),
            relevant=tuple(tuple(words) for words in row["relevant"]),
            whole=row["whole"],
        )
        for row in _rows(directory)
        if row["relevant"] is not None
    ]
    if not found:
        raise ArtifactError(f"{directory} has no labels. `nextquery train label` writes them.")
    return found


def report_of(directory: Path) -> LabelReport:
    """What the labels of a directory are, whoever wrote them and in however many runs."""
    rows = list(_rows(directory))
    judged = [row for row in rows if row["relevant"] is not None]
    words = [word for row in judged for query in row["relevant"] for word in query]
    again = [row for row in judged if row["swapped"] is not None]
    pairs = [
        (one, other)
        for row in again
        for words_of in zip(row["relevant"], row["swapped"], strict=True)
        for one, other in zip(*words_of, strict=True)
    ]
    spent: Counter[str] = Counter()
    for path in _parts(directory):
        spent.update(json.loads(pq.read_schema(path).metadata[_SPENT]))
    return LabelReport(
        responses=len(rows),
        unjudged=len(rows) - len(judged),
        failures=sum(row["problem"] is not None for row in rows),
        words=len(words),
        relevant_words=sum(words) / max(1, len(words)),
        relevant=sum(row["whole"] for row in judged) / max(1, len(judged)),
        swapped=len(again),
        swapped_words_agree=sum(one == other for one, other in pairs) / len(pairs) if pairs else None,
        swapped_agree=sum(row["whole"] == row["swapped_whole"] for row in again) / len(again) if again else None,
        spent=dict(spent),
    )


def _judged(written: Sequence[Rollout], known: Mapping[str, Scene | None], judge: WordJudge) -> list[dict[str, Any]]:
    asked = [asked_about(each.prompt, each.response, known[each.prompt.prompt_id]) for each in written]
    judgements = judge.judge(asked)
    sample_of = range(0, len(asked), _SWAPPED_ONE_IN)
    again = dict(zip(sample_of, judge.judge([_reversed(asked[k]) for k in sample_of]), strict=True))
    return [
        _row(each, one, judgement, again.get(number))
        for number, (each, one, judgement) in enumerate(zip(written, asked, judgements, strict=True))
    ]


def _reversed(asked: Asked) -> Asked:
    return replace(asked, queries=asked.queries[::-1], words=asked.words[::-1])


def _row(written: Rollout, asked: Asked, judgement: Judgement | None, again: Judgement | None) -> dict[str, Any]:
    return {
        "prompt_id": written.prompt.prompt_id,
        "task": written.prompt.task,
        "context": json.dumps(as_whole(written.prompt.context), ensure_ascii=False),
        "ids": list(written.response.ids),
        "queries": list(asked.queries),
        "words": [list(words) for words in asked.words],
        "problem": written.response.problem,
        "relevant": [list(words) for words in judgement.words] if judgement else None,
        "whole": judgement.whole if judgement else None,
        "swapped": [list(words) for words in again.words[::-1]] if again else None,
        "swapped_whole": again.whole if again else None,
    }


def _shards(directory: Path, prompts: Sequence[KnownPrompt], policy: Policy, plan: Mapping[str, Any]) -> Shards:
    sealed = (policy.directory / MANIFEST).is_file()
    which = manifest_sha256(policy.directory) if sealed else str(policy.directory)
    try:
        return Shards(
            directory, [each.prompt for each in prompts], _SHARD, {**plan, "policy": policy.version, "sha256": which}
        )
    except ConfigurationError as error:
        raise ConfigurationError(
            f"{directory} cannot take these labels: it has those of other prompts, another policy, judge or seed, or it cannot "
            "be written. Name an empty directory, or remove that one."
        ) from error


def _parquet(rows: Sequence[dict[str, Any]], spent: Mapping[str, int]) -> bytes:
    schema, sink = _SCHEMA.with_metadata({_SPENT: json.dumps(spent).encode()}), io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows), schema), sink, compression="zstd")
    return sink.getvalue()


def _rows(directory: Path) -> Iterator[dict[str, Any]]:
    for path in _parts(directory):
        try:
            yield from pq.read_table(path, schema=_SCHEMA).to_pylist()
        except (OSError, pa.ArrowException) as error:
            raise ArtifactError(
                f"The labels in {path} cannot be read ({error}). Remove the file and label again: only it is missing then."
            ) from None


def _parts(directory: Path) -> list[Path]:
    return sorted(directory.glob("shard-*.parquet"))
