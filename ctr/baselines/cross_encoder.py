"""The cross-encoder of sentence-transformers on (q_user, q_k), with `_k` after the text for `pid`."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctr.features import Variant
from ctr.rows import Rows
from service.contract.hardware import computes_in_bfloat16

_TOKENS = 64


class CrossEncoderBaseline:
    """A BERT with a linear head, trained by the library's own trainer on the same rows with the same loss."""

    def __init__(
        self,
        start: str | Path,
        variant: Variant = Variant.PLAIN,
        *,
        epochs: float = 1,
        batch_size: int = 256,
        learning_rate: float = 5e-4,
        seed: int = 1,
    ) -> None:
        """Start from any BERT-like model; `variant` is plain or pid."""
        self.name = "cross_encoder" if variant is Variant.PLAIN else f"cross_encoder_{variant.value}"
        self._start, self._variant, self._seed = str(start), variant, seed
        self._epochs, self._batch_size, self._learning_rate = epochs, batch_size, learning_rate

    def fit(self, rows: Rows) -> None:
        """Train on rows drawn by their weight, since the library's loss has no weights."""
        import torch
        from datasets import Dataset, disable_progress_bars
        from sentence_transformers import CrossEncoder, CrossEncoderTrainer, CrossEncoderTrainingArguments
        from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss
        from transformers import PrinterCallback, ProgressCallback
        from transformers.utils import logging

        disable_progress_bars()
        logging.disable_progress_bar()
        torch.manual_seed(self._seed)
        drawn = np.flatnonzero(np.random.default_rng(self._seed).random(len(rows)) < rows.weight)
        pairs = [self._pair(rows, int(row)) for row in drawn]
        labels = rows.label[drawn].astype(float).tolist()
        columns = {"asked": [a for a, _ in pairs], "query": [q for _, q in pairs], "label": labels}
        self._shift = float(np.log(rows.keep_share))
        self._model = CrossEncoder(self._start, num_labels=1, max_length=_TOKENS)
        with TemporaryDirectory() as scratch:
            trainer = CrossEncoderTrainer(
                model=self._model,
                args=CrossEncoderTrainingArguments(
                    output_dir=scratch,
                    num_train_epochs=self._epochs,
                    per_device_train_batch_size=self._batch_size,
                    learning_rate=self._learning_rate,
                    warmup_steps=0.05,
                    use_cpu=not torch.cuda.is_available(),
                    bf16=torch.cuda.is_available() or computes_in_bfloat16(),
                    seed=self._seed,
                    save_strategy="no",
                    report_to="none",
                    disable_tqdm=True,
                ),
                train_dataset=Dataset.from_dict(columns),
                loss=BinaryCrossEntropyLoss(self._model),
            )
            trainer.remove_callback(PrinterCallback)
            trainer.remove_callback(ProgressCallback)
            trainer.train()

    def predict(self, rows: Rows) -> NDArray[np.float64]:
        """P(click) of each row, (R,)."""
        from scipy.special import expit
        from torch.nn import Identity

        pairs = [self._pair(rows, row) for row in range(len(rows))]
        logits: Any = self._model.predict(pairs, batch_size=512, show_progress_bar=False, activation_fn=Identity())
        return np.asarray(expit(np.asarray(logits, np.float64) + self._shift), np.float64)

    def _pair(self, rows: Rows, row: int) -> tuple[str, str]:
        query = rows.query_text(row)
        return rows.user_query(row), f"{query}_{rows.position[row]}" if self._variant is Variant.PID else query
