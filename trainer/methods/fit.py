"""Runs a trainer of TRL or transformers: shared arguments, resume, progress, and what is saved at the end.

It knows nothing about losses; a method builds the trainer.
"""

import json
import math
import os
from collections.abc import Sequence
from itertools import chain, count, islice
from pathlib import Path
from random import Random
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback

from service.contract.errors import ArtifactError, ConfigurationError
from service.contract.progress import forget_after, reporter
from trainer.methods.models import set_start
from trainer.methods.run import MethodConfig, Run
from trainer.methods.watch import Divergence, Watch

_STATE = "trainer_state.json"  # the last file of a checkpoint
_POOL = 32  # batches whose rows are sorted by length together


def dataset(rows: Sequence[dict[str, list[int]]], lengths: Sequence[int], config: MethodConfig) -> Dataset:
    """The rows of all epochs in the order of training: see `in_order`."""
    return Dataset.from_list(list(rows)).select(in_order(lengths, config))


def in_order(lengths: Sequence[int], config: MethodConfig) -> list[int]:
    """Which row comes when, over all epochs: shuffled by the seed, with rows of like length in one batch.

    Little is padding so, and the order does not depend on the number of processes.
    """
    rng, size = Random(config.seed), config.batch_size
    epochs = (rng.sample(range(len(lengths)), len(lengths)) for _ in count())
    shuffled = list(islice(chain.from_iterable(epochs), max(1, round(config.epochs * len(lengths)))))
    batches = []
    for at in range(0, len(shuffled), _POOL * size):
        pool = sorted(shuffled[at : at + _POOL * size], key=lambda row: lengths[row])
        its_batches = [pool[first : first + size] for first in range(0, len(pool), size)]
        batches += rng.sample(its_batches, len(its_batches))
    batches.sort(key=len, reverse=True)  # the one that is not full comes last, else all after it are cut in two
    return [row for batch in batches for row in batch]


def arguments(run: Run, rows: int, learning_rate: float) -> dict[str, Any]:
    """What every configuration of TRL takes, from ours, for a dataset of `rows`. A last batch not full is left out.

    Raises:
        ConfigurationError: The processes and passes cannot share a batch evenly.
    """
    config, on_gpu = run.config, torch.cuda.is_available()
    parts = int(os.environ.get("WORLD_SIZE", "1")) * config.accumulation_steps
    if config.batch_size % parts:
        raise ConfigurationError(
            f"A batch of {config.batch_size} cannot be shared by {parts} (processes x accumulation steps). Give a "
            "batch size that it divides."
        )
    return {
        "output_dir": str(run.work),
        "num_train_epochs": 1,  # `in_order` has them all
        "train_sampling_strategy": "sequential",
        "per_device_train_batch_size": config.batch_size // parts,
        "gradient_accumulation_steps": config.accumulation_steps,
        "dataloader_drop_last": rows >= config.batch_size,
        "learning_rate": config.learning_rate or learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.1,  # a share of all steps
        "max_grad_norm": 1.0,
        "max_length": config.max_tokens,
        "bf16": on_gpu,  # TRL's default is True, also where the processor has none
        "gradient_checkpointing": False,  # TRL's default is True; small models need no second forward pass
        "logging_steps": config.log_steps,
        "logging_first_step": True,
        "logging_nan_inf_filter": False,  # its default hides a loss that is no number
        "save_steps": config.save_steps,
        "save_total_limit": 2,
        "seed": config.seed,
        "use_cpu": not on_gpu,
        "report_to": "none",
        "disable_tqdm": True,
    }


def fit(trainer: Any, run: Run) -> None:
    """Train from the policy's weights or the newest checkpoint, and save the result in `run.trained`.

    Raises:
        ArtifactError: The loss or a weight is no finite number.
    """
    set_start(trainer.model, run)
    trainer.remove_callback(PrinterCallback)  # it writes to stdout, where --json belongs
    checkpoint = newest_checkpoint(run.work)
    if trainer.is_world_process_zero():
        forget_after(run.metrics, (_step(checkpoint) or 0) if checkpoint else 0)
    report = reporter(run.metrics, every_s=0.0, quiet=run.quiet)
    trainer.add_callback(Watch(report, Divergence(trainer, run)))
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    _refuse_unless_finite(trainer.model)
    trainer.save_model(str(run.trained))  # every process has a part in it


def newest_checkpoint(work: Path) -> Path | None:
    """The newest whole checkpoint; one that a kill cut short has no readable state, which is written last."""
    found = [path for path in work.glob("checkpoint-*") if _step(path) is not None]
    return max(found, key=lambda path: _step(path) or 0, default=None)


def _step(checkpoint: Path) -> int | None:
    try:
        return int(json.loads((checkpoint / _STATE).read_text())["global_step"])
    except (OSError, ValueError, KeyError):
        return None


def _refuse_unless_finite(model: Any) -> None:
    for name, weight in model.named_parameters():
        if weight.requires_grad and not math.isfinite(weight.detach().float().sum().item()):
            raise ArtifactError(
                f"The weight {name} is no finite number after training, so nothing is published. Usually the learning "
                "rate is too high: lower it, and give another work directory."
            )
