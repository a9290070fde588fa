"""Trains the query encoder with SimCSE (Gao, Yao and Chen 2021) through sentence-transformers.

Unsupervised: a query and itself, seen through two dropout masks. Supervised: a query and what people typed next. In
both the other queries of the batch are the negatives. It knows nothing about mining or serving.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from retrieval.encoder import Encoder
from service.contract.hardware import computes_in_bfloat16
from service.contract.progress import Report, reporter

_SCALE = 20.0  # 1 / temperature; SimCSE's temperature is 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class SimcseConfig:
    """How an encoder is trained. `steps`: batches of pairs, of both kinds in proportion to their number."""

    steps: int = 300
    batch_size: int = 64
    learning_rate: float = 3e-5
    seed: int = 7
    fewest_pairs: int = 1000


def train_encoder(
    start: str | Path,
    queries: Sequence[str],
    pairs: Sequence[tuple[str, str]],
    output: Path,
    config: SimcseConfig,
    *,
    quiet: bool = False,
) -> bool:
    """Train from `start` (any BERT-like model, by path or hub id) and save at `output`; False where it was not trained.

    `queries` and `pairs` must hold only what may be learnt (k-anonymous texts). With fewer than `fewest_pairs` pairs
    nothing is trained and nothing saved: so few teach it to forget.
    """
    if len(pairs) < config.fewest_pairs:
        return False
    encoder = Encoder(start, to_train=True)
    with TemporaryDirectory() as scratch:
        report = reporter(output / "metrics.jsonl", quiet=quiet)
        _train(encoder.model, queries, pairs, Path(scratch), config, report)
        encoder.model.save_pretrained(str(output), create_model_card=False)
    return True


def _train(
    model: Any,
    queries: Sequence[str],
    pairs: Sequence[tuple[str, str]],
    scratch: Path,
    config: SimcseConfig,
    report: Report,
) -> None:
    import torch
    from datasets import Dataset, disable_progress_bars
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from sentence_transformers.sentence_transformer.training_args import BatchSamplers
    from transformers import PrinterCallback, ProgressCallback

    disable_progress_bars()
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(scratch),
        max_steps=config.steps,
        per_device_train_batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        warmup_steps=max(1, config.steps // 15),
        batch_sampler=BatchSamplers.NO_DUPLICATES,  # a duplicate would be its own negative
        use_cpu=not torch.cuda.is_available(),
        bf16=torch.cuda.is_available() or computes_in_bfloat16(),
        seed=config.seed,
        save_strategy="no",
        logging_steps=10,
        report_to="none",
        disable_tqdm=True,
        dataloader_drop_last=True,
    )
    trainer = SentenceTransformerTrainer(
        model=model,
        args=arguments,
        train_dataset={
            "supervised": Dataset.from_list([{"anchor": query, "positive": after} for query, after in pairs]),
            "unsupervised": Dataset.from_list([{"anchor": query, "positive": query} for query in queries]),
        },
        loss=MultipleNegativesRankingLoss(model, scale=_SCALE),
        callbacks=[_progress(report)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    trainer.train()
    model.eval()


def _progress(report: Report) -> Any:
    from transformers import TrainerCallback

    class Progress(TrainerCallback):  # type: ignore[misc]
        """Hands the trainer's figures to our progress report."""

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
            if logs and "loss" in logs:
                report(state.global_step / state.max_steps, {"step": state.global_step, "loss": logs["loss"]})

    return Progress()
