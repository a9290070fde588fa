"""The click model: any transformers encoder under the embeddings of GQR Figure 2, and a two-layer MLP on [CLS].

It knows nothing about rows, logs or calibration. `save_pretrained` writes a Hugging Face directory.
"""

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AlbertConfig, AutoConfig, AutoModel, BertConfig, PreTrainedModel, RobertaConfig
from transformers.configuration_utils import PretrainedConfig

from ctr.features import MOST_POSITIONS, QUERY_TOKENS
from ctr.tokenizer import fingerprint
from service.contract.errors import ConfigurationError

LONGEST_ROW = 4 + QUERY_TOKENS * (MOST_POSITIONS + 1)
_BERT_RANGE, _BERT_HIDDEN = 0.02, 768  # a narrower model begins with larger weights, or it hardly leaves its plateau
_WORDS_BEGIN = 0.1  # of that: words begin nearly alike, so that one which training never saw says next to nothing
_BACKBONES = {"bert": BertConfig, "roberta": RobertaConfig, "albert": AlbertConfig}


@dataclass(frozen=True, slots=True)
class Size:
    """Shape of a backbone from scratch; feed-forward layers are four times as wide."""

    layers: int
    hidden: int
    heads: int


SIZES = {
    "tiny": Size(1, 32, 2),
    "small": Size(2, 128, 2),
    "medium": Size(4, 256, 4),
    "base": Size(12, 768, 12),
}


class ClickConfig(PretrainedConfig):  # type: ignore[misc]
    """Configuration of a click model.

    `backbone`: configuration of the encoder; `positions`: positions that training has seen; `keep_share`: share of
    the lists without a click that training kept; `tokenizer_fingerprint`: of the tokenizer that it was trained with.
    """

    model_type = "nextquery-click"

    backbone: Any = None
    variant: str = "ctx"
    positions: int = 1
    keep_share: float = 1.0
    tokenizer_fingerprint: str = ""
    initializer_range: float = 0.02


class ClickModel(PreTrainedModel):  # type: ignore[misc]
    """Rows in, logits of P(click) out. GQR 3.2.1."""

    config_class = ClickConfig
    _supports_sdpa = True

    def __init__(self, config: ClickConfig, backbone: Any = None) -> None:
        """Build with random weights, or around a loaded `backbone`."""
        super().__init__(config)
        encoder = AutoConfig.for_model(**config.backbone)
        self.backbone = backbone if backbone is not None else AutoModel.from_config(encoder)
        if getattr(self.backbone, "pooler", None) is not None:
            self.backbone.pooler = None  # ours is the MLP
        width = self.backbone.get_input_embeddings().embedding_dim  # ALBERT's is not its hidden width
        accepted = inspect.signature(self.backbone.forward).parameters
        self.has_segments = getattr(encoder, "type_vocab_size", 0) >= 2 and "token_type_ids" in accepted
        self.domain_embeddings = nn.Embedding(config.positions + 1, width)
        self.segment_embeddings = None if self.has_segments else nn.Embedding(2, width)
        self.mlp = nn.Sequential(
            nn.Linear(encoder.hidden_size, encoder.hidden_size),
            nn.GELU(),
            nn.Dropout(getattr(encoder, "hidden_dropout_prob", 0.1)),
            nn.Linear(encoder.hidden_size, 1),
        )
        self.post_init()

    def forward(self, token_ids: Any, segments: Any, domains: Any, mask: Any) -> Any:
        """Logits in float32, (B,), of rows that are (B, L) each; the sum of four embeddings goes in (GQR 3.2.1)."""
        embeddings = self.backbone.get_input_embeddings()(token_ids) + self.domain_embeddings(domains)
        options = {"token_type_ids": segments} if self.has_segments else {}
        if self.segment_embeddings is not None:
            embeddings = embeddings + self.segment_embeddings(segments)
        encoded = self.backbone(inputs_embeds=embeddings, attention_mask=mask, **options).last_hidden_state
        return self.mlp(encoded[:, 0]).squeeze(-1).float()


def from_scratch(
    backbone: str, size: str, tokenizer: Any, *, variant: str, positions: int, keep_share: float = 1.0
) -> ClickModel:
    """A click model with random weights: `backbone` is bert, roberta or albert, `size` a name in `SIZES`.

    Raises:
        ConfigurationError: There is no such backbone or size.
    """
    if backbone not in _BACKBONES or size not in SIZES:
        raise ConfigurationError(
            f"There is no backbone {backbone!r} of size {size!r} to train from scratch. Backbones are "
            f"{', '.join(_BACKBONES)}; sizes are {', '.join(SIZES)}. Any other encoder is named with --start."
        )
    shape, pad_id = SIZES[size], tokenizer.pad_token_id or 0
    options: dict[str, Any] = {"type_vocab_size": 2}
    if backbone == "roberta":  # no segments, and its positions begin after the padding's id
        options = {"type_vocab_size": 1, "bos_token_id": None, "eos_token_id": None}
    elif backbone == "albert":
        options["embedding_size"] = max(16, shape.hidden // 2)
        options |= {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
    encoder = _BACKBONES[backbone](
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=4 * shape.hidden,
        max_position_embeddings=512 + (pad_id + 1 if backbone == "roberta" else 0),
        pad_token_id=pad_id,
        initializer_range=_BERT_RANGE * (_BERT_HIDDEN / shape.hidden) ** 0.5,
        **options,
    )
    model = ClickModel(_config(encoder, tokenizer, variant, positions, keep_share))
    with torch.no_grad():
        model.backbone.get_input_embeddings().weight.mul_(_WORDS_BEGIN)
    return model


def from_start(start: str, tokenizer: Any, *, variant: str, positions: int, keep_share: float = 1.0) -> ClickModel:
    """A click model around a trained encoder, by path or hub id.

    Raises:
        ConfigurationError: It cannot be loaded, is no encoder that takes embeddings, or is too short for a list.
    """
    try:
        backbone = AutoModel.from_pretrained(start, dtype=torch.float32)
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigurationError(
            f"The encoder {start} cannot be loaded: {str(error).splitlines()[0]} Name a directory with a BERT-like "
            "model, or a hub id that this machine can reach."
        ) from None
    encoder = backbone.config
    if "inputs_embeds" not in inspect.signature(backbone.forward).parameters or encoder.is_encoder_decoder:
        raise ConfigurationError(f"{start} is no encoder that takes embeddings. Name a BERT-like model.")
    room = getattr(encoder, "max_position_embeddings", LONGEST_ROW)
    if 0 < room < LONGEST_ROW:
        raise ConfigurationError(
            f"The encoder {start} reads {room} tokens, and a list has up to {LONGEST_ROW}. Name one that reads more."
        )
    if len(tokenizer) > encoder.vocab_size:
        raise ConfigurationError(
            f"The tokenizer has {len(tokenizer)} tokens and the encoder {start} only {encoder.vocab_size}: they do not "
            "belong together. Name the tokenizer that it was trained with."
        )
    return ClickModel(_config(encoder, tokenizer, variant, positions, keep_share), backbone)


def _config(encoder: Any, tokenizer: Any, variant: str, positions: int, keep_share: float) -> ClickConfig:
    return ClickConfig(
        backbone={"model_type": encoder.model_type, **encoder.to_diff_dict()},
        variant=variant,
        positions=positions,
        keep_share=keep_share,
        tokenizer_fingerprint=fingerprint(tokenizer),
        initializer_range=getattr(encoder, "initializer_range", _BERT_RANGE),
    )


AutoConfig.register(ClickConfig.model_type, ClickConfig)
AutoModel.register(ClickConfig, ClickModel)
