"""Prompts in a Parquet file, with what the person typed next where it is known: for fine-tuning, labelling, PPO, evaluation.

It knows nothing about where histories come from or what is written for them.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from service.contract.errors import ArtifactError
from service.contract.logged_context import as_whole, from_whole
from trainer.audience.scene import Need, Scene
from trainer.catalogue.example import Example
from trainer.prompts import AlignmentPrompt

_SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("task", pa.string()),
        ("context", pa.string()),
        ("targets", pa.list_(pa.string())),
        ("scene", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownPrompt:
    """A prompt, and what is known of its person.

    `targets`: the queries that they typed next. `scene`: what simulated people need, which no real log says.
    """

    prompt: AlignmentPrompt
    targets: tuple[str, ...] = ()
    scene: Scene | None = None


def write_prompts(rows: Sequence[KnownPrompt], path: Path) -> None:
    """Write a file of prompts, whole or not at all.

    Raises:
        ArtifactError: Something is there already, or there are no prompts.
    """
    if path.exists():
        raise ArtifactError(f"{path} exists already. Give another place for the prompts, or remove it.")
    if not rows:
        raise ArtifactError(f"There are no prompts to write into {path}. Give a longer log, or ask for less history.")
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}")
    pq.write_table(pa.Table.from_pylist([_row(each) for each in rows], _SCHEMA), draft, compression="zstd")
    draft.rename(path)


def read_prompts(path: Path, *, most: int | None = None) -> list[KnownPrompt]:
    """The prompts of a file in its order, at most the first `most`.

    Raises:
        ArtifactError: It cannot be read, or holds no prompts.
    """
    try:
        table = pq.read_table(path, schema=_SCHEMA)
        rows = [_known(row) for row in table.slice(0, most).to_pylist()]
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"The prompts in {path} cannot be read ({type(error).__name__}: {error}). `nextquery train prompts` writes them."
        ) from None
    if not rows:
        raise ArtifactError(f"{path} has no prompts. `nextquery train prompts` writes them.")
    return rows


def share_of(name: str) -> float:
    """Where a person or a prompt stands between 0 and 1, whatever the log: who is learnt from, and who is held out."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6]) / 256**6


def examples_of(rows: Sequence[KnownPrompt]) -> list[Example]:
    """The prompts whose targets are known, as examples to be fine-tuned on.

    Raises:
        ArtifactError: There is none.
    """
    found = [
        Example(task=each.prompt.task, context=each.prompt.context, queries=each.targets)
        for each in rows
        if each.targets
    ]
    if not found:
        raise ArtifactError("No prompt says what was typed next, so there is nothing to be fine-tuned on.")
    return found


def _row(each: KnownPrompt) -> dict[str, Any]:
    return {
        "prompt_id": each.prompt.prompt_id,
        "task": each.prompt.task,
        "context": json.dumps(as_whole(each.prompt.context), ensure_ascii=False),
        "targets": list(each.targets),
        "scene": json.dumps([[asdict(need) for need in each.scene.needs], each.scene.chances]) if each.scene else None,
    }


def _known(row: dict[str, Any]) -> KnownPrompt:
    context, scene = from_whole(json.loads(row["context"])), None
    if row["scene"] is not None:
        needs, chances = json.loads(row["scene"])
        scene = Scene(
            task=row["task"], context=context, needs=tuple(Need(**need) for need in needs), chances=tuple(chances)
        )
    prompt = AlignmentPrompt(prompt_id=row["prompt_id"], task=row["task"], context=context)
    return KnownPrompt(prompt=prompt, targets=tuple(row["targets"]), scene=scene)
