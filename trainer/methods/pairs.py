"""Reads pairs of lists from Parquet as token ids: exactly those that serving would make.

It knows nothing about how pairs are made or trained on.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.contract.errors import ArtifactError
from service.contract.logged_context import from_whole
from service.contract.tasks import get_task
from service.contract.tokenizer import PromptTokenizer
from trainer.encoding import PROMPT_BUDGET

_COLUMNS = ("prompt_id", "task", "context", "chosen", "rejected")


@dataclass(frozen=True, slots=True)
class PairIds:
    """Token ids of one pair; both responses end with the end-of-sequence token.

    One of them is empty where there is nothing to compare the other with, as with lists of a log that were not clicked.
    """

    prompt: tuple[int, ...]
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt) + max(len(self.chosen), len(self.rejected))

    @property
    def is_whole(self) -> bool:
        """Whether it has both lists."""
        return bool(self.chosen and self.rejected)


def read_pairs(file: Path, tokenizer: PromptTokenizer, max_tokens: int) -> tuple[list[PairIds], int]:
    """The pairs of a file that fit into `max_tokens`, in its order, and how many do not.

    Raises:
        ArtifactError: The file cannot be read, lacks a column, or no pair of it fits.
    """
    pairs = [_encoded(row, number, tokenizer) for number, row in enumerate(_rows(file), 1)]
    fitting = [pair for pair in pairs if len(pair) <= max_tokens]
    if not fitting:
        raise ArtifactError(
            f"There is no pair to train on: {file} has {len(pairs)}, of which none fits into {max_tokens} tokens. "
            "Usually the filters dropped all: see the report of the pairs, or raise the limit of tokens."
        )
    return fitting, len(pairs) - len(fitting)


def file_sha256(file: Path) -> str:
    """SHA-256 of a file."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(file)
    except (OSError, ValueError) as error:
        raise ArtifactError(f"The pairs in {file} cannot be read ({error}). Write them again.") from error
    if missing := [name for name in _COLUMNS if name not in table.column_names]:
        raise ArtifactError(f"{file} lacks {', '.join(missing)}, so it holds no pairs. Give a file of pairs.")
    yield from table.select(_COLUMNS).to_pylist()


def _encoded(row: dict[str, Any], number: int, tokenizer: PromptTokenizer) -> PairIds:
    try:
        context = from_whole(json.loads(row["context"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"The context of pair {number} is no context ({error!r}). Write the pairs again."
        ) from error
    prompt = get_task(row["task"]).render(context, tokenizer, budget=PROMPT_BUDGET)
    chosen, rejected = (
        () if row[name] is None else tuple(tokenizer.encode_response(row[name])) for name in ("chosen", "rejected")
    )
    return PairIds(prompt.token_ids, chosen, rejected)
