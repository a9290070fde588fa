"""Makes a click predictor from a snapshot: dataset, train, calibrate, evaluate, publish. GQR 3.2.1.

It knows nothing about serving. A predictor is a Hugging Face directory with a manifest:

    <version>/
      manifest.json                         what it was made from and what it measured; SHA-256 of every file
      README.md                             the model card
      config.json, model.safetensors        the model; the tokenizer's files beside it
      calibration.json, metrics.json        Platt's two numbers; every figure
      reliability.png, roc.png

While it is made, texts of people are in the work directory: only the owner may read them, and they are removed at the
end, unless the process was killed: then the next run goes on from there.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoConfig, AutoModel

from ctr.baselines import Baseline
from ctr.baselines.cross_encoder import CrossEncoderBaseline
from ctr.baselines.hashed_words import HashedWords
from ctr.baselines.popularity import Popularity
from ctr.baselines.position import Position
from ctr.calibrate import Platt, fit_platt
from ctr.dataset import DataConfig, Dataset, build_dataset
from ctr.evaluate import OURS, Evaluation, evaluate
from ctr.features import Variant, layout_for
from ctr.merge import distinct
from ctr.model import ClickModel
from ctr.predictor import KIND, load_verified, refuse_unfit
from ctr.publish import write_draft
from ctr.rows import Rows
from ctr.score import score_rows
from ctr.tokenizer import default_tokenizer, fingerprint, load_tokenizer
from ctr.train import TrainConfig, learning_rate_of, train
from service.contract.artifact import publish, verify
from service.contract.errors import NextQueryError
from service.contract.registry import ANY_TASK
from service.contract.snapshot import Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildConfig:
    """What a predictor is made by.

    Attributes:
        work: holds runs that are under way.
        tokenizer: by path or hub id; None means that of `train.start`, else the one installed with nextquery.
        cross_encoder: compare with sentence-transformers' cross-encoder too, which takes as long as training.
    """

    work: Path
    data: DataConfig
    train: TrainConfig
    tokenizer: str | None = None
    cross_encoder: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """A published predictor. `is_new`: False when the same one was there already."""

    version: str
    directory: Path
    is_new: bool
    manifest: Mapping[str, Any] = field(repr=False)


def build(snapshot: Snapshot, destination: Path, config: BuildConfig, *, quiet: bool = False) -> Build:
    """Make a predictor and publish it under `destination`; the same inputs give the same version.

    Raises:
        ConfigurationError: The log, the task, the model or the tokenizer cannot be used; nothing is published.
        ArtifactError: Training failed.
    """
    tokenizer = load_tokenizer(_tokenizer_of(config))
    version = _version(snapshot, config, tokenizer)
    directory = destination / version
    is_new = not directory.exists()
    if is_new:
        work = config.work / version
        work.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            _make(snapshot, tokenizer, work, directory, config, quiet=quiet)
        except NextQueryError:
            shutil.rmtree(work, ignore_errors=True)
            raise
        shutil.rmtree(work)
    return Build(version=version, directory=directory, is_new=is_new, manifest=verify(directory))


def _make(snapshot: Snapshot, tokenizer: Any, work: Path, directory: Path, config: BuildConfig, *, quiet: bool) -> None:
    data = build_dataset(snapshot, tokenizer, work / "data", config.data)
    trained = train(data, tokenizer, work / "training", config.train, quiet=quiet)
    refuse_unfit(trained.model, tokenizer, directory)
    platt = calibrate(trained.model, tokenizer, data)
    predictions = {OURS: platt.probabilities(logits_of(trained.model, tokenizer, data.test))}
    predictions |= _predictions(data, [Position(), Popularity(), HashedWords()])
    if config.cross_encoder:
        predictions |= _predictions(data, _cross_encoders(trained.model, tokenizer, work / "encoder", config.train))
    facts = {
        "kind": KIND,
        "version": directory.name,
        "task": config.data.task,
        "tenant": snapshot.tenant,
        "window": [snapshot.since.isoformat(), snapshot.until.isoformat()],
        "days": data.days,
        "rows": {part: len(getattr(data, part)) for part in data.days},
        "skipped": data.skipped,
        "data": asdict(config.data),
        "training": {**asdict(config.train), "steps": trained.steps, "validation_logloss": trained.validation_logloss},
        "tokenizer_fingerprint": trained.model.config.tokenizer_fingerprint,
        "calibration": asdict(platt),
    }
    with tempfile.TemporaryDirectory(dir=work, prefix=".draft-") as scratch:
        draft = Path(scratch) / "draft"
        write_draft(draft, trained.model, tokenizer, data.test.label, predictions, evaluate(data, predictions), facts)
        publish(draft, directory)


def evaluate_published(snapshot: Snapshot, directory: Path, config: DataConfig, work: Path) -> Evaluation:
    """Measure a published predictor on the test days of a snapshot; the baselines learn from its training days.

    Days that the predictor was trained on flatter it: its manifest says which they are.

    Raises:
        ArtifactError: The predictor cannot be trusted.
        ConfigurationError: The log cannot be used.
    """
    model, tokenizer, platt, _ = load_verified(directory)
    work.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=work, prefix=".evaluate-") as scratch:
        data = build_dataset(snapshot, tokenizer, Path(scratch) / "data", config)
        ours = platt.probabilities(logits_of(model, tokenizer, data.test))
        return evaluate(data, {OURS: ours} | _predictions(data, [Position(), Popularity(), HashedWords()]))


def calibrate(model: Any, tokenizer: Any, data: Dataset) -> Platt:
    """Platt's two numbers from every day of the window that no step of training learnt from.

    The validation day is one: it only said when to stop. The clicks of a few days tell their mean to some per cent.
    """
    parts = (data.validation, data.calibration)
    logits = np.concatenate([logits_of(model, tokenizer, part) for part in parts])
    return fit_platt(logits, np.concatenate([np.asarray(part.label) for part in parts]))


def logits_of(model: Any, tokenizer: Any, rows: Rows) -> NDArray[np.float32]:
    """Logits of rows with sampling undone: log(keep_share) is added, (R,)."""
    variant = Variant(model.config.variant)
    layout = layout_for(tokenizer, variant, model.config.positions)
    first, number = distinct(rows, variant)  # a list that many people saw is scored once
    logits = score_rows(model, rows.lists, rows.first[first], np.asarray(rows.position)[first], layout)
    return logits[number] + np.float32(np.log(model.config.keep_share))


def _predictions(data: Dataset, baselines: Sequence[Baseline]) -> dict[str, NDArray[np.float64]]:
    found = {}
    for baseline in baselines:
        baseline.fit(data.train)
        found[baseline.name] = baseline.predict(data.test)
    return found


def _cross_encoders(model: ClickModel, tokenizer: Any, scratch: Path, config: TrainConfig) -> list[Baseline]:
    """The cross-encoder without and with the position, on the same backbone and for as many epochs."""
    start = config.start
    if start is None:
        torch.manual_seed(config.seed)
        AutoModel.from_config(AutoConfig.for_model(**model.config.backbone)).save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        start = str(scratch)
    options: dict[str, Any] = {"epochs": config.epochs, "batch_size": config.batch_size, "seed": config.seed}
    options["learning_rate"] = learning_rate_of(config)
    return [CrossEncoderBaseline(start, variant, **options) for variant in (Variant.PLAIN, Variant.PID)]


def _tokenizer_of(config: BuildConfig) -> str:
    return config.tokenizer or config.train.start or default_tokenizer()


def _version(snapshot: Snapshot, config: BuildConfig, tokenizer: Any) -> str:
    """A name that the same inputs give again: the task, the day it ends with, and a hash of all of them."""
    inputs = [
        snapshot.manifest["files"],
        asdict(config.data),
        asdict(config.train),
        _sha256(config.train.start),
        fingerprint(tokenizer),
    ]
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
    task = "all" if config.data.task == ANY_TASK else config.data.task
    return f"ctr-{task}-{snapshot.until:%Y%m%d}-{digest[:8]}"


def _sha256(start: str | None) -> str:
    """Hash of the files of the encoder that training starts from; of nothing for a hub id."""
    digest = hashlib.sha256()
    for path in sorted(Path(start).rglob("*")) if start else []:
        if path.is_file():
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
