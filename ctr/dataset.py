"""Turns a window of the log into rows on disk: GQR 3.2.1's D_ctr, N rows a list, split by time.

It knows nothing about models. What it writes are texts of people: only the owner may read it, and whoever called it
removes it after training.

    train          the first days of the window: weighted and down-sampled as below
    validation     the day after: decides when training stops, and then calibrates too
    calibration    the last two days of the window, the last one of a short window: Platt's two numbers
    test           days after the window, as many as there are, up to `test_days`: nothing is learnt from them

Down-sampling keeps every list with a click and `keep_share` of those without; the hash of the impression's id decides.
A row without a click in a list with one would be kept more often than its like, so it weighs `keep_share`: then every
row without a click counts `keep_share` of what it should, whatever its list, and the odds are too high by exactly
1 / keep_share. The predictor adds log(keep_share) to its logit.

A known person with more than `most_lists` lists on a day weighs as `most_lists` in training.
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ctr.arrays import ArrayWriter
from ctr.features import MOST_POSITIONS, tokenize
from ctr.impressions import Impression, Reader
from ctr.rows import COLUMNS, Rows, open_rows
from service.contract.errors import ConfigurationError
from service.contract.query_text import match_key, query_id
from service.contract.registry import ANY_TASK
from service.contract.snapshot import Snapshot
from service.contract.tasks import get_task

FEWEST_DAYS = 4  # one for each part
PARTS = ("train", "validation", "calibration", "test")
_CHUNK = 2_000
_EPOCH = date(1970, 1, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """What the predictor learns from.

    `days`: of the window, of which the last `calibration_days`, at most a fifth, calibrate; `test_days`: after it, at
    most a third of all there are.
    """

    task: str
    days: int = 14
    test_days: int = 7
    calibration_days: int = 2
    keep_share: float = 1.0
    most_lists: int = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """The four parts. `skipped`: lists left out, by reason. `days`: UTC days of each part."""

    train: Rows
    validation: Rows
    calibration: Rows
    test: Rows
    days: dict[str, list[str]]
    skipped: dict[str, int]

    @property
    def positions(self) -> int:
        """The largest position that training sees, at most that of the longest list a task has."""
        return min(MOST_POSITIONS, int(self.train.position.max()))


def build_dataset(snapshot: Snapshot, tokenizer: Any, directory: Path, config: DataConfig) -> Dataset:
    """Write the dataset at `directory`, unless it is there already from a run that was interrupted.

    Raises:
        ConfigurationError: The task is unknown, or the window holds too little to learn from; nothing stays behind.
    """
    if config.task != ANY_TASK:
        get_task(config.task)
    if not 0.0 < config.keep_share <= 1.0:
        raise ConfigurationError(
            f"The share of lists without a click to keep is {config.keep_share}; name one above 0 and at most 1."
        )
    if not directory.exists():
        draft = directory.with_name(f".{directory.name}.draft")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True, mode=0o700)
        try:
            _write(snapshot, tokenizer, draft, config)
            _refuse_one_sided(_open(draft), config.task)
            draft.rename(directory)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return _open(directory)


def split_days(days: Sequence[date], config: DataConfig) -> dict[str, list[date]]:
    """Which days each part has, oldest first.

    Raises:
        ConfigurationError: There are fewer than four days.
    """
    if len(days) < FEWEST_DAYS:
        raise ConfigurationError(
            f"The snapshot has lists of task {config.task!r} on {len(days)} days, and at least {FEWEST_DAYS} are needed: "
            "to train, to stop in time, to calibrate and to test, each on a later day. Take a longer snapshot."
        )
    tested = min(config.test_days, max(1, len(days) // 3))
    window = list(days[:-tested])[-max(3, config.days) :]
    calibrated = max(1, min(config.calibration_days, len(window) // 5))
    until = len(window) - calibrated
    return {
        "train": window[: until - 1],
        "validation": window[until - 1 : until],
        "calibration": window[until:],
        "test": list(days[-tested:]),
    }


def is_kept(impression_id: str, share: float) -> bool:
    """Whether a list without a click is kept: by the hash of its id, so that the same ones are kept each time."""
    digest = hashlib.blake2b(impression_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64


def _write(snapshot: Snapshot, tokenizer: Any, draft: Path, config: DataConfig) -> None:
    reader = Reader(snapshot, config.task)
    days = split_days(list(reader.days()), config)
    for part in PARTS:
        share = config.keep_share if part == "train" else 1.0
        with ArrayWriter(_made(draft / part) / "arrays", _columns(tokenizer)) as arrays:
            writer = _PartWriter(arrays, tokenizer, share, config.most_lists if part == "train" else None)
            for day in days[part]:
                stream = reader.read(day)
                while impressions := list(islice(stream, _CHUNK)):
                    writer.add(impressions, day)
        facts = {"tasks": list(writer.tasks), "arms": list(writer.arms), "keep_share": share}
        (draft / part / "facts.json").write_text(json.dumps(facts))
    names = {part: [day.isoformat() for day in days[part]] for part in PARTS}
    (draft / "dataset.json").write_text(
        json.dumps({"days": names, "skipped": reader.skipped, "config": asdict(config)}, default=str)
    )


@dataclass(slots=True)
class _PartWriter:
    arrays: ArrayWriter
    tokenizer: Any
    share: float
    most_lists: int | None
    queries: int = 0
    tokens: int = 0
    characters: int = 0
    lists: int = 0
    tasks: dict[str, int] = field(default_factory=dict)
    arms: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.arrays.append("starts", [0])
        self.arrays.append("text_starts", [0])

    def add(self, impressions: Sequence[Impression], day: date) -> None:
        kept = [each for each in impressions if each.clicked or is_kept(each.impression_id, self.share)]
        if not kept:
            return
        shown = np.array([len(each.queries) for each in kept])
        first = self.queries + np.cumsum(shown + 1) - (shown + 1)
        self.arrays.append("list_first", first)
        self.arrays.append("list_day", np.full(len(kept), (day - _EPOCH).days))
        self.arrays.append("list_task", [self.tasks.setdefault(each.task, len(self.tasks)) for each in kept])
        self.arrays.append("list_arm", [self.arms.setdefault(each.arm, len(self.arms)) for each in kept])
        self.arrays.append("list_person", [query_id(each.person) for each in kept])
        self._add_rows(kept, shown)
        self._add_queries([text for each in kept for text in (each.user_query, *each.queries)], shown)
        self.lists += len(kept)

    def _add_rows(self, kept: Sequence[Impression], shown: Any) -> None:
        position = np.concatenate([np.arange(1, n + 1) for n in shown])
        label = np.concatenate([[k in each.clicked for k in range(1, len(each.queries) + 1)] for each in kept])
        clicked = np.repeat([bool(each.clicked) for each in kept], shown)
        weight = np.where(clicked & ~label, self.share, 1.0)
        if self.most_lists is not None:
            weight = weight * np.repeat([min(1.0, self.most_lists / each.user_lists) for each in kept], shown)
        self.arrays.append("row_list", self.lists + np.repeat(np.arange(len(kept)), shown))
        self.arrays.append("row_position", position)
        self.arrays.append("row_label", label)
        self.arrays.append("row_weight", weight)
        self.arrays.append("row_query", [query_id(match_key(text)) for each in kept for text in each.queries])

    def _add_queries(self, texts: list[str], shown: Any) -> None:
        encoded = tokenize(self.tokenizer, texts)
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        written = [text.encode() for text in texts]
        ends = np.cumsum([len(each) for each in written])
        self.arrays.append("tokens", [token for ids in encoded for token in ids])
        self.arrays.append("domains", np.repeat(np.concatenate([np.arange(n + 1) for n in shown]), lengths))
        self.arrays.append("starts", self.tokens + np.cumsum(lengths))
        self.arrays.append("text", np.frombuffer(b"".join(written), np.uint8))
        self.arrays.append("text_starts", self.characters + ends)
        self.queries += len(texts)
        self.tokens += int(lengths.sum())
        self.characters += int(ends[-1])


def _columns(tokenizer: Any) -> dict[str, str]:
    return {"tokens": "uint16" if len(tokenizer) <= 2**16 else "int32", **COLUMNS}


def _made(directory: Path) -> Path:
    directory.mkdir(mode=0o700)
    return directory


def _open(directory: Path) -> Dataset:
    facts = json.loads((directory / "dataset.json").read_text())
    parts = {part: open_rows(directory / part) for part in PARTS}
    return Dataset(**parts, days=facts["days"], skipped=facts["skipped"])


def _refuse_one_sided(data: Dataset, task: str) -> None:
    for part in PARTS:
        rows: Rows = getattr(data, part)
        clicks = int(rows.label.sum())
        if 0 < clicks < len(rows):
            continue
        what = "no list that can be read" if not len(rows) else "no click" if not clicks else "only clicks"
        raise ConfigurationError(
            f"There is {what} of task {task!r} in the days for {part} ({', '.join(data.days[part])}), so a click "
            "probability cannot be learnt or checked there. Take a longer snapshot, or one of a busier task."
        )
