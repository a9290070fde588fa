"""The click predictor on real clicks: TREC Session lists against rank alone, and panes of MIMICS-Duo.

It knows nothing about simulated people. The data stay where they are; what is trained here is thrown away.
"""

import csv
import hashlib
import json
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from ctr.build import logits_of
from ctr.dataset import DataConfig, Dataset, build_dataset
from ctr.features import MOST_POSITIONS, Variant
from ctr.reward import list_reward
from ctr.tokenizer import default_tokenizer, load_tokenizer
from ctr.train import TrainConfig, train
from service.contract.snapshot import composed_snapshot, open_snapshot
from service.contract.tables import clicks, impressions
from tests.bench.intervals import bootstrap
from tests.bench.log_rows import click, impression
from tests.bench.matching_start import matching_start
from tests.bench.report import ROOT, Bar, Cell

BARS = [
    Bar("trec_pair_accuracy_gain", "share", ">", 0),
    Bar("trec_pair_accuracy_gain_low", "share", ">", 0),
    Bar("trec_pair_accuracy_gain_high", "share"),
    Bar("trec_pair_accuracy", "share"),
    Bar("trec_pair_accuracy_rank", "share"),
    Bar("duo_pair_accuracy", "share"),
    Bar("duo_pair_accuracy_low", "share"),
    Bar("duo_pair_accuracy_high", "share"),
    Bar("duo_pair_accuracy_position", "share"),
    Bar("duo_pair_accuracy_chance", "share"),
]
_DATA = ROOT.parent / "shared" / "data"
_SINCE = datetime(2026, 10, 1, tzinfo=UTC)
_FOLDS = 5
_TENTHS = 10  # impressions that stand for a pane's engagement level of 0 .. 10
_OF = ("ctr", "tests/bench/ctr_real.py", "tests/bench/matching_start.py")
_TREC: dict[str, Any] = {
    "variant": Variant.PID,
    "learning_rate": 1e-5,
    "epochs": 2,
    "batch_size": 32,
    "checks_per_epoch": 1,
}


@dataclass(frozen=True, slots=True)
class Shown:
    """A list that people saw: `group` stays in one fold, `clicked` are positions."""

    name: str
    group: str
    query: str
    queries: tuple[str, ...]
    clicked: frozenset[int]


def trec() -> dict[str, float]:
    """Pairs of a clicked and an unclicked result of one list in the right order, tested on sessions never trained on."""
    lists = _trec_lists()
    ours, rank, pairs = (np.zeros(len(lists)) for _ in range(3))
    place = {each.name: number for number, each in enumerate(lists)}
    with tempfile.TemporaryDirectory() as start:
        config = TrainConfig(start=matching_start(_DATA, Path(start)), **_TREC)
        for fold in range(_FOLDS):
            for shown, p in _predicted(lists, fold, config, "suggest"):
                number = place[shown.name]
                for clicked in shown.clicked:
                    for other in set(range(1, len(shown.queries) + 1)) - shown.clicked:
                        pairs[number] += 1
                        ours[number] += _above(p[clicked - 1], p[other - 1])
                        rank[number] += _above(-clicked, -other)
    sessions = np.unique([each.group for each in lists], return_inverse=True)[1]

    def gain(weights: np.ndarray) -> float:
        of_lists = weights[sessions]
        return float((of_lists * (ours - rank)).sum() / (of_lists * pairs).sum())

    low, high = bootstrap(gain, int(sessions.max()) + 1)
    return {
        "trec_pair_accuracy_gain": float((ours - rank).sum() / pairs.sum()),
        "trec_pair_accuracy_gain_low": low,
        "trec_pair_accuracy_gain_high": high,
        "trec_pair_accuracy": float(ours.sum() / pairs.sum()),
        "trec_pair_accuracy_rank": float(rank.sum() / pairs.sum()),
    }


def duo() -> dict[str, float]:
    """Two panes of one query in the order of their engagement, by predicted list reward (eq. 4)."""
    panes = _duo_panes()
    lists = [each for pane in panes for each in pane.impressions]
    reward: dict[str, float] = {}
    config = TrainConfig(variant=Variant.CTX, epochs=3, batch_size=64)
    for fold in range(_FOLDS):
        for shown, p in _predicted(lists, fold, config, "clarify"):
            reward[shown.name.split("/")[0]] = list_reward(p, single_choice=True)
    right, by_position, queries = [], [], []
    for one, other in combinations(panes, 2):
        if one.query == other.query and one.level != other.level:
            sign = 1.0 if one.level > other.level else -1.0
            right.append(_above(sign * reward[one.name], sign * reward[other.name]))
            by_position.append(_above(sign * len(one.options), sign * len(other.options)))
            queries.append(one.query)
    units = np.unique(queries, return_inverse=True)[1]
    low, high = bootstrap(lambda w: float(np.average(right, weights=w[units])), int(units.max()) + 1)
    return {
        "duo_pair_accuracy": float(np.mean(right)),
        "duo_pair_accuracy_low": low,
        "duo_pair_accuracy_high": high,
        "duo_pair_accuracy_position": float(np.mean(by_position)),
        "duo_pair_accuracy_chance": 0.5,
    }


CELLS = [Cell("trec", trec, of=_OF, about_s=600), Cell("duo", duo, of=_OF, about_s=200)] if _DATA.is_dir() else []


@dataclass(frozen=True, slots=True)
class _Pane:
    name: str
    query: str
    options: tuple[str, ...]
    level: int
    impressions: tuple[Shown, ...]


def _predicted(
    lists: Sequence[Shown], fold: int, config: TrainConfig, task: str
) -> Iterator[tuple[Shown, np.ndarray[Any, Any]]]:
    """The lists of a fold with their probabilities, from a predictor that saw none of its groups.

    They are not calibrated: 30 panes cannot tell the slope, and only the order is looked at.
    """
    tokenizer = load_tokenizer(default_tokenizer())
    with tempfile.TemporaryDirectory() as name:
        days = _write(Path(name) / "log", lists, fold, task)
        wanted = DataConfig(task=task, days=14, test_days=1, most_lists=10**9)
        data = build_dataset(open_snapshot(Path(name) / "log"), tokenizer, Path(name) / "rows", wanted)
        model = train(data, tokenizer, Path(name) / "work", config, quiet=True).model
        p = 1 / (1 + np.exp(-logits_of(model, tokenizer, data.test).astype(np.float64)))
        yield from zip(days[-1], _split(p, data), strict=True)


def _split(p: np.ndarray[Any, Any], data: Dataset) -> list[np.ndarray[Any, Any]]:
    begins = np.flatnonzero(np.diff(data.test.row_list, prepend=-1))
    return np.split(p, begins[1:])


def _write(directory: Path, lists: Sequence[Shown], fold: int, task: str) -> list[list[Shown]]:
    """A log whose last day is the fold; one session in ten of the others stops training, one in ten calibrates it."""
    days: list[list[Shown]] = [[] for _ in range(5)]
    for shown in lists:
        number = int(hashlib.sha256(shown.group.encode()).hexdigest(), 16)
        own = {0: 2, 1: 3}.get(number // _FOLDS % 10, number // 50 % 2)
        days[4 if number % _FOLDS == fold else own].append(shown)
    with composed_snapshot(directory, _SINCE, _SINCE + timedelta(days=len(days))) as write_day:
        for number, listed in enumerate(days):
            at = _SINCE + timedelta(days=number)
            listed.sort(key=lambda shown: shown.name)
            rows = [impression(each.name, at, each.query, each.queries, task=task) for each in listed]
            write_day(impressions, at.date(), rows)
            events = [click(row, k) for row, each in zip(rows, listed, strict=True) for k in sorted(each.clicked)]
            write_day(clicks, at.date(), events)
    return days


def _trec_lists() -> list[Shown]:
    found: dict[tuple[str, ...], list[dict[str, str]]] = defaultdict(list)
    with (_DATA / "impressions.tsv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            found[row["year"], row["session"], row["interaction"]].append(row)
    lists = []
    for key, rows in found.items():
        rows = sorted(rows, key=lambda row: int(row["rank"]))[:MOST_POSITIONS]
        clicked = frozenset(k for k, row in enumerate(rows, 1) if row["clicked"] == "1")
        group = "/".join(key[:2])
        lists.append(Shown("-".join(key), group, rows[0]["query"], tuple(row["title"] or "-" for row in rows), clicked))
    return [each for each in lists if each.query]


def _duo_panes() -> list[_Pane]:
    panes = []
    for number, line in enumerate((_DATA / "panes.jsonl").read_text(encoding="utf-8").splitlines()):
        row = json.loads(line)
        if row["source"] != "mimics_duo":
            continue
        rng, level, options = Random(number), int(row["engagement_level"]), tuple(row["options"])
        chances = [share or 0.0 for share in row["option_cctr"] or []] or [1.0] * len(options)
        drawn = rng.choices(range(1, len(options) + 1), chances if sum(chances) else None, k=_TENTHS)
        seen = tuple(
            Shown(f"{number}/{each}", row["query"], row["query"], options, frozenset([k] if each < level else []))
            for each, k in enumerate(drawn)
        )
        panes.append(_Pane(str(number), row["query"], options, level, seen))
    return panes


def _above(one: float, other: float) -> float:
    return 0.5 if one == other else float(one > other)
