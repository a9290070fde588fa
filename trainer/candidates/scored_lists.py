"""What a candidate search finds for each prompt, and how that lies on disk: one Parquet file a shard.

It knows nothing about how lists are found.

    <directory>/
      search.json             what was searched for, with what; another search never mixes with it
      shard-00000.parquet     candidates of the first `shard_size` prompts; appears whole, by rename
"""

import json
import math
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from service.contract.errors import ArtifactError, ConfigurationError
from service.contract.logged_context import as_logged, from_log
from trainer.prompts import AlignmentPrompt

_PLAN = "search.json"
_LIST = pa.struct(
    [
        ("queries", pa.list_(pa.string())),
        ("texts", pa.string()),
        ("reward", pa.float64()),
        ("response", pa.string()),
        ("tokens", pa.int64()),
    ]
)
_SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("task", pa.string()),
        ("n", pa.int64()),
        ("query", pa.string()),
        ("context", pa.string()),
        ("chosen", pa.list_(_LIST)),
        ("rejected", pa.list_(_LIST)),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredList:
    """A list with its reward under the predictor that searched (GQR eq. 3 or 4).

    Attributes:
        texts: auxiliary texts (snippets: guide, prefix, suffix).
        response: `task.response(...)`, what a policy is trained to write; of a list to avoid, what it wrote.
        tokens: of the response under the policy's tokenizer, the end of sequence included.
    """

    queries: tuple[str, ...]
    texts: dict[str, str]
    reward: float
    response: str
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """Lists to prefer, best first, and lists to avoid, worst first. Either may be empty."""

    prompt: AlignmentPrompt
    chosen: tuple[ScoredList, ...]
    rejected: tuple[ScoredList, ...]


class Shards:
    """The shards of one search in a directory; several processes may write different ones."""

    def __init__(self, directory: Path, prompts: Sequence[AlignmentPrompt], shard_size: int, plan: Mapping[str, Any]):
        """Begin a search, or go on with it where `directory` has it already. `plan`: what makes it this search, as JSON.

        Raises:
            ConfigurationError: The directory has another search, or cannot be written.
        """
        self.count = math.ceil(len(prompts) / shard_size)
        self._directory, self._prompts, self._size = directory, prompts, shard_size
        ids = [prompt.prompt_id for prompt in prompts]
        self._claim({**plan, "shards": self.count, "shard_size": shard_size, "prompts": ids})

    def missing(self) -> list[int]:
        """Numbers of the shards that are still to be searched."""
        return [number for number in range(self.count) if not _shard(self._directory, number).is_file()]

    def prompts(self, number: int) -> Sequence[AlignmentPrompt]:
        """The prompts of one shard."""
        return self._prompts[number * self._size : (number + 1) * self._size]

    def write(self, number: int, found: bytes) -> None:
        """Put the Parquet bytes of one shard in its place, in one rename."""
        _put(_shard(self._directory, number), found)

    def _claim(self, plan: dict[str, Any]) -> None:
        path, text = self._directory / _PLAN, json.dumps(plan, indent=1, sort_keys=True) + "\n"
        if not path.is_file():
            _put(path, text.encode())
        elif path.read_text(encoding="utf-8") != text:
            raise ConfigurationError(
                f"{self._directory} has the candidates of another search: its prompts, policy, predictor or configuration "
                "are not those of this one. Name an empty directory, or remove that one."
            )


def to_parquet(found: Sequence[Candidates]) -> bytes:
    """Candidates as the bytes of a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([_row(each) for each in found], _SCHEMA), sink, compression="zstd")
    return bytes(sink.getvalue().to_pybytes())


def read_candidates(directory: Path) -> list[Candidates]:
    """The candidates of a whole search, in the order of its prompts.

    Raises:
        ArtifactError: It is no search, a shard is missing, or cannot be read.
    """
    try:
        count = int(json.loads((directory / _PLAN).read_text(encoding="utf-8"))["shards"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{directory} holds no candidate search ({error!r}). Search again, or name another place."
        ) from None
    found: list[Candidates] = []
    for number in range(count):
        path = _shard(directory, number)
        if not path.is_file():
            raise ArtifactError(
                f"{path} is missing: the search was not finished. Start it again, and it goes on there."
            )
        try:
            found += [_candidates(row) for row in pq.read_table(path).to_pylist()]
        except (pa.ArrowException, ValueError, KeyError, TypeError) as error:
            raise ArtifactError(
                f"{path} cannot be read ({type(error).__name__}: {error}). Remove it, and search again: only this shard "
                "is missing then."
            ) from None
    return found


def _shard(directory: Path, number: int) -> Path:
    return directory / f"shard-{number:05d}.parquet"


def _put(path: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all."""
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise ConfigurationError(
            f"{path} cannot be written: {error.strerror or error}. Make room, or name another place; the search goes on "
            "with what is missing."
        ) from error


def _row(found: Candidates) -> dict[str, Any]:
    context = found.prompt.context
    return {
        "prompt_id": found.prompt.prompt_id,
        "task": found.prompt.task,
        "n": context.n,
        "query": context.query,
        "context": json.dumps(as_logged(context), ensure_ascii=False),
        "chosen": [_list_row(each) for each in found.chosen],
        "rejected": [_list_row(each) for each in found.rejected],
    }


def _list_row(each: ScoredList) -> dict[str, Any]:
    return {
        "queries": list(each.queries),
        "texts": json.dumps(each.texts, ensure_ascii=False),
        "reward": each.reward,
        "response": each.response,
        "tokens": each.tokens,
    }


def _candidates(row: Mapping[str, Any]) -> Candidates:
    context = from_log(json.loads(row["context"]), query=row["query"], n=row["n"])
    return Candidates(
        prompt=AlignmentPrompt(prompt_id=row["prompt_id"], task=row["task"], context=context),
        chosen=tuple(_scored_list(each) for each in row["chosen"]),
        rejected=tuple(_scored_list(each) for each in row["rejected"]),
    )


def _scored_list(row: Mapping[str, Any]) -> ScoredList:
    return ScoredList(
        queries=tuple(row["queries"]),
        texts=json.loads(row["texts"]),
        reward=row["reward"],
        response=row["response"],
        tokens=row["tokens"],
    )
