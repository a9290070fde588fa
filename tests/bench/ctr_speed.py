"""Speed, memory and steadiness of the click predictor.

It knows nothing about how good it is.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModel

from ctr.baselines.cross_encoder import CrossEncoderBaseline
from ctr.calibrate import Platt
from ctr.dataset import DataConfig, Dataset, build_dataset
from ctr.features import Variant
from ctr.model import from_scratch
from ctr.predictor import Predictor
from ctr.tokenizer import default_tokenizer, load_tokenizer
from ctr.train import TrainConfig, train
from service.contract.snapshot import composed_snapshot, open_snapshot
from service.contract.tables import clicks, impressions
from service.contract.types import PromptContext
from tests.bench.log_rows import click, impression
from tests.bench.report import ROOT, Bar, Cell
from trainer.catalogue.catalogue import load_catalogue
from trainer.catalogue.compose import compose

BARS = [
    Bar("train_rows_ratio", "ratio", ">=", 1.5),
    Bar("train_rows_per_s", "rows/s"),
    Bar("cross_encoder_rows_per_s", "rows/s"),
    Bar("score_lists_ratio", "ratio", ">=", 2),
    Bar("batch_invariance", "p_click", "<=", 1e-5, digits=9),
    Bar("train_memory_ratio", "ratio", "<=", 1.2),
    Bar("train_memory_mb", "MiB"),
]
SINCE = datetime(2026, 10, 1, tzinfo=UTC)
_OF = ("ctr", "trainer/catalogue", "tests/bench/ctr_speed.py")
_ROUNDS, _LISTS_TIMED, _LISTS_SCORED = 3, 14_000, 400
_STEPS = 300


def speed() -> dict[str, float]:
    """Rows/s of training on one epoch, both sides in turn: tokenising included, the same backbone, rows and precision."""
    tokenizer, ours, theirs = load_tokenizer(default_tokenizer()), [], []
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        snapshot = open_snapshot(write_log(scratch / "log", _LISTS_TIMED))
        start = _backbone(tokenizer, scratch / "start")
        for number in range(_ROUNDS):
            config = TrainConfig(
                variant=Variant.PLAIN, start=str(start), epochs=1, checks_per_epoch=1, learning_rate=5e-4
            )
            began = time.perf_counter()
            data = build_dataset(snapshot, tokenizer, scratch / f"data-{number}", DataConfig(task="suggest"))
            train(data, tokenizer, scratch / f"work-{number}", config, quiet=True)
            ours.append(len(data.train) / (time.perf_counter() - began))
            baseline = CrossEncoderBaseline(start, Variant.PLAIN, epochs=1)
            began = time.perf_counter()
            baseline.fit(data.train)
            theirs.append(len(data.train) / (time.perf_counter() - began))
    ratio = float(np.median([a / b for a, b in zip(ours, theirs, strict=True)]))
    return {
        "train_rows_ratio": ratio,
        "train_rows_per_s": float(np.median(ours)),
        "cross_encoder_rows_per_s": float(np.median(theirs)),
    }


def scoring() -> dict[str, float]:
    """Lists scored together against one (prefix, query) at a time, nothing cached; and how far the scores differ."""
    tokenizer = load_tokenizer(default_tokenizer())
    torch.manual_seed(0)
    model = from_scratch("bert", "small", tokenizer, variant="ctx", positions=3)
    lists = _lists(_LISTS_SCORED)
    apart, together = (
        Predictor(model, tokenizer, Platt(1.0, 0.0), version="a", task="suggest", sha256="", cached=1) for _ in "ab"
    )
    ratios, differences = [], []
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        batched = np.concatenate(together.p_click_lists(lists))
        took = time.perf_counter() - began
        began = time.perf_counter()
        single = np.array([p for context, queries in lists for p in _one_by_one(apart, context, queries)])
        ratios.append((time.perf_counter() - began) / took)
        differences.append(float(np.abs(batched - single).max()))
        Random(0).shuffle(lists)
    return {"score_lists_ratio": float(np.median(ratios)), "batch_invariance": max(differences)}


def memory() -> dict[str, float]:
    """Peak memory of training on a million rows and on 100,000, each in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        peaks = []
        for rows in (100_000, 1_000_000):
            log = write_log(
                Path(name) / f"log-{rows}", rows * 7 // 12, plain=True
            )  # 12 of 21 days train, three rows a list
            words = [sys.executable, "-m", "tests.bench.ctr_speed", str(log)]
            done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
            peaks.append(json.loads(done.stdout.splitlines()[-1]))
            print(f"  {rows} rows: {peaks[-1]}", file=sys.stderr, flush=True)
    return {"train_memory_ratio": peaks[1]["mb"] / peaks[0]["mb"], "train_memory_mb": peaks[1]["mb"]}


CELLS = [
    Cell("speed", speed, of=_OF),
    Cell("scoring", scoring, of=_OF),
    Cell("memory", memory, of=_OF),
]


def write_log(directory: Path, lists: int, *, plain: bool = False) -> Path:
    """A log of 14 days and a few beyond: lists of three of the catalogue, or of made-up words, and clicks at random."""
    rng, days = Random(0), 21
    shown = _plain_lists(rng) if plain else iter(_catalogue_lists())
    with composed_snapshot(directory, SINCE, SINCE + timedelta(days=days)) as write_day:
        for number in range(days):
            day = SINCE + timedelta(days=number)
            rows = [impression(f"{number:03d}{each:08d}", day, *next(shown)) for each in range(lists // days)]
            write_day(impressions, day.date(), rows)
            events = [click(row, rng.randint(1, 3)) for row in rows if rng.random() < 0.2]
            write_day(clicks, day.date(), events)
    return directory


def _catalogue_lists() -> Iterator[tuple[str, Sequence[str]]]:
    for example in compose(load_catalogue(), 0, task="suggest"):
        if len(example.queries) == 3:
            yield example.context.query or "", example.queries


def _plain_lists(rng: Random) -> Iterator[tuple[str, Sequence[str]]]:
    words = [f"{a}{b}" for a in ("red", "new", "old", "big", "blue") for b in ("house", "car", "tree", "boat", "song")]
    while True:
        asked, *queries = (" ".join(rng.choices(words, k=4)) for _ in range(4))
        yield asked, queries


def _backbone(tokenizer: Any, directory: Path) -> Path:
    torch.manual_seed(1)
    config = from_scratch("bert", "small", tokenizer, variant="plain", positions=1).config.backbone
    AutoModel.from_config(AutoConfig.for_model(**config)).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def _lists(count: int) -> list[tuple[PromptContext, Sequence[str]]]:
    drawn = _catalogue_lists()
    return [(PromptContext(n=3, query=query), queries) for query, queries in (next(drawn) for _ in range(count))]


def _one_by_one(predictor: Predictor, context: PromptContext, queries: Sequence[str]) -> Iterator[float]:
    for k, query in enumerate(queries):
        yield float(predictor.score_next(context, queries[:k], [query])[0])


def _train_here(log: Path) -> dict[str, float]:
    """Train for a while on everything in `log`; called in a process of its own."""
    tokenizer = load_tokenizer(default_tokenizer())
    with tempfile.TemporaryDirectory() as name:
        data: Dataset = build_dataset(open_snapshot(log), tokenizer, Path(name) / "data", DataConfig(task="suggest"))
        train(data, tokenizer, Path(name) / "work", TrainConfig(epochs=1), max_steps=_STEPS, quiet=True)
        for chosen in np.array_split(np.arange(len(data.train)), 100):  # every page of every row is met
            data.train.first[chosen].sum()
        return {"mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "rows": float(len(data.train))}


if __name__ == "__main__":
    print(json.dumps(_train_here(Path(sys.argv[1]))))
