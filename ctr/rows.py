"""The rows of one part of the log, as training and evaluation read them: arrays mapped from disk.

It knows nothing about Parquet nor models. A row is one query shown at one position of one list.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctr.arrays import open_arrays
from ctr.features import Lists

COLUMNS = {
    "domains": "uint8",
    "starts": "int64",
    "text": "uint8",
    "text_starts": "int64",
    "list_first": "int64",
    "list_day": "int32",
    "list_task": "uint8",
    "list_arm": "uint16",
    "list_person": "int64",
    "row_list": "int64",
    "row_position": "uint8",
    "row_label": "uint8",
    "row_weight": "float32",
    "row_query": "int64",
}
"""NumPy type of each array; `tokens` is added with the smallest type that holds the vocabulary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Rows of one part, R of them, from I lists with Q queries.

    Attributes:
        lists: tokens of every query, each once.
        text, text_starts: UTF-8 of the queries, in the order of `lists`; q_user is the first of each list.
        list_first: index of each list's q_user among the queries, (I,).
        list_day: UTC day, counted from 1970, (I,).
        list_task, list_arm: index into `tasks` and `arms`, (I,).
        list_person: the same number for the lists of one person, session, or list where neither is known, (I,).
        row_list, position: the list of each row, and its position from 1, (R,).
        label: 1 where the query was clicked, (R,).
        weight: of the row in training's loss; what sampling kept has 1, see `ctr/dataset.py`, (R,).
        query: number of the query's match key, (R,).
        keep_share: share of the lists without a click that were kept.
    """

    lists: Lists
    text: NDArray[np.uint8]
    text_starts: NDArray[np.int64]
    list_first: NDArray[np.int64]
    list_day: NDArray[np.int32]
    list_task: NDArray[np.uint8]
    list_arm: NDArray[np.uint16]
    list_person: NDArray[np.int64]
    row_list: NDArray[np.int64]
    position: NDArray[np.uint8]
    label: NDArray[np.uint8]
    weight: NDArray[np.float32]
    query: NDArray[np.int64]
    tasks: Sequence[str]
    arms: Sequence[str]
    keep_share: float

    def __len__(self) -> int:
        return len(self.label)

    @property
    def first(self) -> NDArray[np.int64]:
        """Index of each row's q_user among the queries, (R,)."""
        return self.list_first[self.row_list]

    @property
    def importance(self) -> NDArray[np.float64]:
        """How many rows of the whole log each row stands for, up to a constant, (R,): sampling undone by weights."""
        scale = np.where(self.label == 1, 1.0, 1.0 / self.keep_share)
        return np.asarray(self.weight * scale, np.float64)

    def user_query(self, row: int) -> str:
        """Text of q_user of a row."""
        return self._text(int(self.list_first[self.row_list[row]]))

    def query_text(self, row: int) -> str:
        """Text of the query shown in a row."""
        return self._text(int(self.list_first[self.row_list[row]]) + int(self.position[row]))

    def _text(self, query: int) -> str:
        return bytes(self.text[self.text_starts[query] : self.text_starts[query + 1]]).decode()


def open_rows(directory: Path) -> Rows:
    """The rows that `ctr/dataset.py` wrote into `directory`."""
    arrays: dict[str, Any] = open_arrays(directory / "arrays")
    facts = json.loads((directory / "facts.json").read_text())
    return Rows(
        lists=Lists(arrays["tokens"], arrays["domains"], arrays["starts"]),
        text=arrays["text"],
        text_starts=arrays["text_starts"],
        list_first=arrays["list_first"],
        list_day=arrays["list_day"],
        list_task=arrays["list_task"],
        list_arm=arrays["list_arm"],
        list_person=arrays["list_person"],
        row_list=arrays["row_list"],
        position=arrays["row_position"],
        label=arrays["row_label"],
        weight=arrays["row_weight"],
        query=arrays["row_query"],
        tasks=facts["tasks"],
        arms=facts["arms"],
        keep_share=facts["keep_share"],
    )
