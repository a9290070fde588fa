"""Writes a trained model as a policy directory: a whole model in bf16 safetensors or a LoRA adapter, sealed.

It knows nothing about how the model was trained.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from service.contract.artifact import MANIFEST, manifest_sha256, publish, seal, verify
from service.contract.errors import ArtifactError
from service.contract.policy import Decoding, Policy, load_policy, seal_policy
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
        _copy(_TOKENIZER_FILES, tokenizer_directory, draft)
        _generation_config(model, draft)
        _finish(draft, card)
        digest = seal_policy(
            draft, version=version, text_format=text_format, lineage=lineage, decoding=decoding, **metadata
        )
        publish(draft, destination)
    return digest


def export_adapter(
    model: Any,
    base: Policy,
    destination: Path,
    *,
    version: str,
    card: str,
    lineage: str,
    decoding: Decoding,
    **metadata: Any,
) -> str:
    """Publish the adapter "default" of `model` (a peft model) on `base` in one rename. Returns the manifest's SHA-256.

    It stays in float32, for the next adapter may go on from it. `lineage`: the version that it was trained from.

    Raises:
        ArtifactError: The base was never published, is an adapter itself, or an engine could not serve the adapter.
    """
    _refuse_unless_servable(model.peft_config["default"], base, version)
    with TemporaryDirectory() as scratch:
        draft = Path(scratch) / "draft"
        model.save_pretrained(draft, selected_adapters=["default"], save_embedding_layers=False)
        _without_path(draft / "adapter_config.json", base.version)
        _copy((*_TOKENIZER_FILES, "generation_config.json"), base.directory, draft)
        _finish(draft, card)
        digest = seal_policy(
            draft,
            version=version,
            text_format=base.tokenizer.format,
            locales=base.locales,
            lineage=lineage,
            decoding=decoding,
            base={"version": base.version, "manifest_sha256": manifest_sha256(base.directory)},
            **metadata,
        )
        publish(draft, destination)
    return digest


def export_trained(
    model: Any, policy: Policy, destination: Path, *, version: str, card: str, training: dict[str, Any]
) -> str:
    """Publish what `policy` was trained to: an adapter on its base where `model` is one of peft, else a whole model.

    It decodes as `policy` does. Returns the manifest's SHA-256.

    Raises:
        ArtifactError: As `export_adapter` does.
    """
    if hasattr(model, "peft_config"):
        return export_adapter(
            model,
            load_policy(policy.model_directory),
            destination,
            version=version,
            card=card,
            lineage=policy.version,
            decoding=policy.decoding,
            training=training,
        )
    return export_policy(
        model,
        policy.directory,
        destination,
        version=version,
        text_format=policy.tokenizer.format,
        lineage=policy.version,
        decoding=policy.decoding,
        card=card,
        training=training,
    )


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


def _refuse_unless_servable(lora: Any, base: Policy, version: str) -> None:
    if base.adapter is not None:
        raise ArtifactError(f"{base.version} is an adapter itself. Publish {version} on the base of {base.version}.")
    if not (base.directory / MANIFEST).is_file():
        raise ArtifactError(
            f"{base.directory} has no {MANIFEST}, so an adapter cannot name its base. Make it a policy first, by "
            "`nextquery train sft`, or train every weight (rank 0)."
        )
    outside = {"embed_tokens", "lm_head"} & {*(lora.target_modules or ()), *(lora.modules_to_save or ())}
    if outside or lora.modules_to_save:
        raise ArtifactError(
            f"The adapter {version} changes {', '.join(sorted(outside or lora.modules_to_save))}, which an engine "
            'does not take from an adapter. Train with target_modules="all-linear" and no modules_to_save.'
        )


def _without_path(file: Path, base_version: str) -> None:
    """The base by its version instead of a path of this machine; modules in an order that does not change."""
    config = json.loads(file.read_text()) | {"base_model_name_or_path": base_version}
    config["target_modules"] = sorted(config["target_modules"])
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _copy(names: Sequence[str], source: Path, draft: Path) -> None:
    for name in names:
        if (source / name).is_file():
            shutil.copy(source / name, draft / name)


def _finish(draft: Path, card: str) -> None:
    (draft / "README.md").write_text(card)
    for path in draft.iterdir():
        path.chmod(0o644)  # safetensors writes for its owner only, and a service may run as another user


def _generation_config(model: Any, draft: Path) -> None:
    ids = {name: getattr(model.config, name, None) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    (draft / "generation_config.json").write_text(json.dumps({k: v for k, v in ids.items() if v is not None}) + "\n")
