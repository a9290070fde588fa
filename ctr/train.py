"""Trains a click model: GQR eq. 5 with Adam, until a later day's loss stops falling; a killed run goes on where it was.

It knows nothing about Parquet, calibration or publishing.
"""

import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import binary_cross_entropy_with_logits

from ctr.dataset import Dataset
from ctr.features import Ints, Layout, Variant, compose, layout_for, row_lengths
from ctr.lessons import Lessons, shown
from ctr.merge import distinct, merged
from ctr.metrics import logloss
from ctr.model import ClickModel, from_scratch, from_start
from ctr.rows import Rows
from ctr.score import score_rows, to_tensors
from ctr.vocabulary import narrow, used_tokens, widen
from ctr.words import WordRates
from service.contract.errors import ArtifactError
from service.contract.hardware import computes_in_bfloat16
from service.contract.progress import reporter

_STATE = "state.pt"
_BUCKETED = 50  # batches that are sorted by length together
_REPORT_STEPS = 20
_FEWEST_STEPS = 500
_SCRATCH_PACE = 1e-3
_WORD_PACE, _WORD_EPSILON = 4.0, 2e-5  # about the size of the gradient of a word that one row in a hundred has


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """How a click model is trained.

    Attributes:
        epochs: passes over the distinct rows (see `ctr/merge.py`).
        backbone, size: of a model from scratch, where `start` is None.
        start: a trained encoder by path or hub id.
        learning_rate: None means 1e-3 from scratch, 3e-5 from a trained encoder; what is new beside a trained encoder
            moves at 1e-3 at least.
        checks_per_epoch, patience: training stops after so many looks at the validation day without a gain; from scratch
            it goes on to its end, since it turns to the clicks late. The weights of the best look are kept.
        validation_rows: rows of that day that are looked at, at most.
    """

    variant: Variant = Variant.CTX
    backbone: str = "bert"
    size: str = "small"
    start: str | None = None
    epochs: int = 3
    batch_size: int = 256
    learning_rate: float | None = None
    warmup_share: float = 0.05
    checks_per_epoch: int = 4
    patience: int = 4
    validation_rows: int = 100_000
    seed: int = 1
    save_every_s: float = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A trained model, with the layout of its rows. `validation_logloss`: the best, sampling undone."""

    model: ClickModel
    layout: Layout
    steps: int
    validation_logloss: float


def train(
    data: Dataset,
    tokenizer: Any,
    work: Path,
    config: TrainConfig,
    *,
    max_steps: float = math.inf,
    quiet: bool = False,
) -> Trained:
    """Train, or go on from the newest state in `work`. Figures go to `metrics.jsonl` there.

    `max_steps`: stop there for now, as an interruption would; the learning rate does not follow it.

    Raises:
        ConfigurationError: The model cannot be made.
        ArtifactError: The weights became NaN.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(config.seed)
    rows, layout = merged(data.train, config.variant), layout_for(tokenizer, config.variant, data.positions)
    model = _new_model(data, tokenizer, config).to(device)
    used = used_tokens((data.train.lists.tokens, data.validation.lists.tokens), layout, len(tokenizer))
    narrow(model, used)
    lessons = None
    if not config.start:
        times = float(np.sum(data.train.weight)) / len(rows)
        lessons = Lessons(rows, WordRates(rows, len(tokenizer), config.variant, times=times), config.seed)
    optimizer = torch.optim.Adam(_groups(model, config), fused=True)
    state = _load_state(work, model, optimizer, device)
    total = _steps(len(rows), len(data.train), config)
    validation = _Validation(data.validation, layout, config)
    check_every = max(1, total // (config.epochs * config.checks_per_epoch))
    in_bfloat16 = device == "cuda" or computes_in_bfloat16()
    precision = torch.autocast(device, torch.bfloat16) if in_bfloat16 else nullcontext()
    report, saved_at = reporter(work / "metrics.jsonl", quiet=quiet), time.monotonic()

    model.train()
    batches = _batches(rows, layout, config, state["step"])
    while state["step"] < min(total, max_steps) and (lessons or state["unimproved"] < config.patience):
        chosen = next(batches)
        done = state["step"] / total
        lesson = lessons.of(chosen, step=state["step"], done=done) if lessons else shown(rows, chosen)
        batch = compose(lesson.lists, lesson.first, lesson.position, layout)
        labels, weights = (torch.from_numpy(each).to(device) for each in (lesson.label, lesson.weight))
        for group in optimizer.param_groups:
            group["lr"] = group["highest"] * _schedule(done, config.warmup_share)
        with precision:
            logits = model(*to_tensors(batch, device))
        loss = binary_cross_entropy_with_logits(logits, labels, weight=weights)  # GQR eq. 5
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

        state["step"] += 1
        if state["step"] % check_every == 0 or state["step"] == total:
            validation.look(model, data.train.keep_share, state)
        if state["step"] % _REPORT_STEPS == 0 or state["step"] == total:
            figures = {"step": state["step"], "loss": loss.item()}
            if state["best"] is not None:
                figures["validation"] = state["best_loss"]
            report(state["step"] / total, figures)
        if time.monotonic() - saved_at > config.save_every_s:
            _save_state(work, model, optimizer, state)
            saved_at = time.monotonic()
    _save_state(work, model, optimizer, state)
    if state["best"] is not None and state["step"] < max_steps:
        model.load_state_dict(state["best"])
    widen(model)
    return Trained(model=model.eval(), layout=layout, steps=state["step"], validation_logloss=state["best_loss"])


def learning_rate_of(config: TrainConfig) -> float:
    """The learning rate as given, else 1e-3 from scratch and 3e-5 from a trained encoder."""
    return config.learning_rate or (3e-5 if config.start else _SCRATCH_PACE)


def _new_model(data: Dataset, tokenizer: Any, config: TrainConfig) -> ClickModel:
    facts: dict[str, Any] = {
        "variant": config.variant.value,
        "positions": data.positions,
        "keep_share": data.train.keep_share,
    }
    if config.start:
        model = from_start(config.start, tokenizer, **facts)
    else:
        model = from_scratch(config.backbone, config.size, tokenizer, **facts)
    rate = float(np.average(data.train.label[:], weights=data.train.weight[:]))
    with torch.no_grad():
        model.mlp[-1].bias.fill_(math.log(rate / (1.0 - rate)))  # begins at the click rate
    return model


def _steps(distinct: int, rows: int, config: TrainConfig) -> int:
    """Steps of all epochs over the distinct rows; a log of few gets more, as many as its rows unmerged at most."""
    of_distinct, of_rows = (config.epochs * math.ceil(n / config.batch_size) for n in (distinct, rows))
    return max(of_distinct, min(_FEWEST_STEPS, of_rows))


def _groups(model: ClickModel, config: TrainConfig) -> list[dict[str, Any]]:
    """What Adam moves, and how fast. From scratch, words have an epsilon of the size of their gradients.

    Adam divides by the size of recent gradients, which is next to nothing for a rare word: each of its few clicks would
    move it thirty times as far as one click moves a common word, and rare words would be learnt by heart.
    """
    if config.start:
        return _groups_of_start(model, config)
    words = model.backbone.get_input_embeddings().weight
    others = [each for each in model.parameters() if each is not words]
    rate = learning_rate_of(config)
    return [
        {"params": others, "highest": rate},
        {"params": [words], "highest": _WORD_PACE * rate, "eps": _WORD_EPSILON},
    ]


def _groups_of_start(model: ClickModel, config: TrainConfig) -> list[dict[str, Any]]:
    """A trained encoder moves slowly; domains, segments and MLP begin with random weights and move as from scratch."""
    rate, trained = learning_rate_of(config), list(model.backbone.parameters())
    known = {id(each) for each in trained}
    new = [each for each in model.parameters() if id(each) not in known]
    return [{"params": trained, "highest": rate}, {"params": new, "highest": max(rate, _SCRATCH_PACE)}]


def _schedule(done: float, warmup_share: float) -> float:
    """Linear warm-up, then linear decay to 0."""
    return min((done + 1e-3) / warmup_share if warmup_share else 1.0, (1.0 - done) / (1.0 - warmup_share), 1.0)


def _batches(rows: Rows, layout: Layout, config: TrainConfig, done: int) -> Iterator[NDArray[np.int64]]:
    """Rows of each step from the one after `done` on: shuffled, then sorted by length within every 50 batches."""
    steps_per_epoch = math.ceil(len(rows) / config.batch_size)
    bucket = _BUCKETED * config.batch_size
    epoch, skip = divmod(done, steps_per_epoch)
    while True:
        order = np.random.default_rng([config.seed, epoch]).permutation(len(rows))
        for number in range(skip // _BUCKETED, math.ceil(len(rows) / bucket)):
            chosen = np.sort(order[number * bucket : (number + 1) * bucket])  # read from disk in order
            mixed = np.random.default_rng([config.seed, epoch, number])
            yield from _by_length(rows, layout, mixed.permutation(chosen), config.batch_size, mixed)[
                max(0, skip - number * _BUCKETED) :
            ]
        epoch, skip = epoch + 1, 0


def _by_length(
    rows: Rows, layout: Layout, chosen: Ints, batch_size: int, mixed: np.random.Generator
) -> list[NDArray[np.int64]]:
    lengths = row_lengths(rows.lists, rows.list_first[rows.row_list[chosen]], rows.position[chosen], layout)
    ordered = chosen[np.argsort(lengths, kind="stable")]
    batches = [ordered[begin : begin + batch_size] for begin in range(0, len(ordered), batch_size)]
    return [batches[number] for number in mixed.permutation(len(batches))]


class _Validation:
    """The rows of the validation day that are looked at; those a model cannot tell apart are scored once."""

    def __init__(self, rows: Rows, layout: Layout, config: TrainConfig) -> None:
        chosen = np.arange(len(rows))
        if len(rows) > config.validation_rows:
            random = np.random.default_rng(config.seed)
            chosen = np.sort(random.choice(len(rows), config.validation_rows, replace=False))
        first, number = distinct(rows, config.variant)
        of, self._place = np.unique(number[chosen], return_inverse=True)
        self._lists, self._layout = rows.lists, layout
        self._first, self._position = rows.first[first[of]], np.asarray(rows.position)[first[of]]
        self._labels = np.asarray(rows.label)[chosen]

    def look(self, model: ClickModel, keep_share: float, state: dict[str, Any]) -> None:
        """Measure the logloss, sampling undone; keep the weights where it is the lowest so far."""
        logits = score_rows(model, self._lists, self._first, self._position, self._layout)[self._place]
        shifted = logits.astype(np.float64) + math.log(keep_share)
        found = logloss(self._labels, 1 / (1 + np.exp(-shifted)))
        if not math.isfinite(found):
            raise ArtifactError(
                "The weights of the click model became NaN in training. Usually the learning rate is too high: train "
                "anew with a lower --learning-rate."
            )
        if found < state["best_loss"]:
            best = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
            state.update(best_loss=found, best=best, unimproved=0)
        else:
            state["unimproved"] += 1


def _save_state(work: Path, model: ClickModel, optimizer: Any, state: dict[str, Any]) -> None:
    """Write everything that resuming needs; the old state stays until the new one is whole."""
    work.mkdir(parents=True, exist_ok=True)
    draft = work / f".{_STATE}.draft"
    random = {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []}
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "state": state, "rng": random}, draft)
    draft.replace(work / _STATE)


def _load_state(work: Path, model: ClickModel, optimizer: Any, device: str) -> dict[str, Any]:
    path = work / _STATE
    if not path.is_file():
        return {"step": 0, "best_loss": math.inf, "best": None, "unimproved": 0}
    saved = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    torch.set_rng_state(saved["rng"]["cpu"])
    if device == "cuda":
        torch.cuda.set_rng_state_all(saved["rng"]["cuda"])
    return dict(saved["state"])
