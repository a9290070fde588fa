"""Writes a trained model as a policy directory: bf16 safetensors, tokenizer, model card, manifest.

It knows nothing about how the model was trained.
"""

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from service.contract.artifact import MANIFEST, publish, seal, verify
from service.contract.policy import Decoding, seal_policy
from service.contract.tokenizer import TextFormat

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


def export_policy(
    model: Any,
    tokenizer_directory: Path,
    destination: Path,
    *,
    version: str,
    text_format: TextFormat,
    card: str,
    lineage: str | None = None,
    decoding: Decoding = Decoding(),  # noqa: B008  # it is frozen
    **metadata: Any,
) -> str:
    """Publish `model` (a transformers causal model) at `destination` in one rename. Returns the manifest's SHA-256."""
    import torch

    with TemporaryDirectory() as scratch:
        draft = Path(scratch) / "draft"  # the scratch directory itself is for its owner's eyes only
        draft.mkdir()
        precision = model.dtype
        model.to(torch.bfloat16).save_pretrained(draft, safe_serialization=True)
        model.to(precision)
        for name in _TOKENIZER_FILES:
            if (tokenizer_directory / name).is_file():
                shutil.copy(tokenizer_directory / name, draft / name)
        _generation_config(model, draft)
        for path in draft.iterdir():
            path.chmod(0o644)  # safetensors writes for its owner only, and a service may run as another user
        (draft / "README.md").write_text(card)
        digest = seal_policy(
            draft, version=version, text_format=text_format, lineage=lineage, decoding=decoding, **metadata
        )
        publish(draft, destination)
    return digest


def publish_with_card(policy: Path, destination: Path, card: str) -> str:
    """Publish a sealed policy at `destination` with another model card. Returns the new manifest's SHA-256."""
    manifest = verify(policy)
    with TemporaryDirectory() as scratch:
        draft = Path(scratch) / "draft"
        shutil.copytree(policy, draft)
        (draft / MANIFEST).unlink()
        (draft / "README.md").write_text(card)
        digest = seal(draft, {key: value for key, value in manifest.items() if key != "files"})
        publish(draft, destination)
    return digest


def _generation_config(model: Any, draft: Path) -> None:
    ids = {name: getattr(model.config, name, None) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    (draft / "generation_config.json").write_text(json.dumps({k: v for k, v in ids.items() if v is not None}) + "\n")
