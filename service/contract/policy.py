"""A policy: a language model directory, how it writes lists, and proof that it was trained on this prompt.

It loads the tokenizer, never the weights; engines load those.
"""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from service.contract.artifact import MANIFEST, manifest_sha256, seal, verify
from service.contract.engine import Adapter
from service.contract.errors import ArtifactError, PromptMismatch
from service.contract.settings import STARTER
from service.contract.tasks import all_tasks
from service.contract.tokenizer import PromptTokenizer, TextFormat, chat_template


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """How a policy writes best; settings can say otherwise. The penalties keep a small model from repeating."""

    temperature: float = 0.7
    top_p: float = 0.95
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0


@dataclass(frozen=True, slots=True)
class Policy:
    """One version of a policy, ready to render prompts. `locales`: languages it writes, such as "en".

    `base_directory` and `adapter` are there when the policy is a LoRA adapter on a base.
    """

    version: str
    directory: Path
    tokenizer: PromptTokenizer
    locales: tuple[str, ...]
    lineage: str | None = None
    decoding: Decoding = Decoding()
    base_directory: Path | None = None
    adapter: Adapter | None = None

    @property
    def model_directory(self) -> Path:
        """What an engine loads: the policy's own directory, or its base's."""
        return self.base_directory or self.directory


def load_policy(reference: str | Path) -> Policy:
    """The policy in a directory, or any Hugging Face causal model by path or hub id.

    A directory with our manifest is checked file by file and against the prompts of this code. Any other model gets
    the literal separator, and its chat template where it has one.

    Raises:
        ArtifactError: A file is missing or altered, or nothing can be found under that name.
        PromptMismatch: It was trained on another prompt than this code renders.
    """
    directory = Path(reference)
    if not directory.is_dir():
        directory = _from_hub(str(reference))
    if not (directory / MANIFEST).is_file():
        return _foreign(str(reference), directory)
    manifest = verify(directory)
    try:
        version, prompts, locales = str(manifest["version"]), dict(manifest["prompts"]), tuple(manifest["locales"])
        text_format = TextFormat(**manifest["format"])
        decoding = Decoding(**manifest.get("decoding", {}))
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"The manifest of {directory} is not a policy's: {error!r} is wrong. Give the directory of a policy."
        ) from None
    _check_prompts(version, prompts, text_format)
    base = _base(directory, dict(manifest["base"])) if "base" in manifest else None
    return Policy(
        version=version,
        directory=directory,
        tokenizer=PromptTokenizer(base or directory, text_format),
        locales=locales,
        lineage=manifest.get("lineage"),
        decoding=decoding,
        base_directory=base,
        adapter=_adapter(directory, version) if base else None,
    )


def _adapter(directory: Path, version: str) -> Adapter:
    name = f"{version}:{manifest_sha256(directory)}"
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") & 0x7FFFFFFF
    return Adapter(version, number or 1, str(directory))


def _base(directory: Path, base: dict[str, str]) -> Path:
    """The base that an adapter was trained on: beside it, or the shipped one."""
    for candidate in (directory.parent / base["version"], STARTER):
        if (candidate / MANIFEST).is_file() and manifest_sha256(candidate) == base["manifest_sha256"]:
            if "base" in verify(candidate):
                raise ArtifactError(
                    f"{candidate} is an adapter, and so is {directory} on it. Train on its base instead."
                )
            return candidate
    raise ArtifactError(
        f"{directory} is an adapter on {base['version']}, and that base, unaltered, is not beside it. Put the "
        "directory of the base there under the name of its version."
    )


def seal_policy(
    directory: Path,
    *,
    version: str,
    text_format: TextFormat,
    locales: tuple[str, ...] = ("en",),
    lineage: str | None = None,
    decoding: Decoding = Decoding(),  # it is frozen
    **metadata: Any,
) -> str:
    """Write the manifest of a trained policy, with the fingerprint of every task's prompt. Returns its SHA-256."""
    return seal(
        directory,
        {
            "kind": "policy",
            "version": version,
            "format": asdict(text_format),
            "prompts": {name: task.fingerprint(text_format) for name, task in sorted(all_tasks().items())},
            "locales": list(locales),
            "lineage": lineage,
            "decoding": asdict(decoding),
            **metadata,
        },
    )


def _check_prompts(version: str, trained: dict[str, str], text_format: TextFormat) -> None:
    for name, task in all_tasks().items():
        current = task.fingerprint(text_format)
        if name in trained and trained[name] != current:
            raise PromptMismatch(
                f"Policy {version} was trained on prompt {trained[name]} of task {name!r}; the code renders {current}. "
                "Usually the template changed after training: retrain, or promote the policy trained on it."
            )


def _foreign(reference: str, directory: Path) -> Policy:
    tokenizer = PromptTokenizer(directory, TextFormat(chat=chat_template(directory) is not None))
    return Policy(version=reference, directory=directory, tokenizer=tokenizer, locales=("*",))


def _from_hub(reference: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(reference, allow_patterns=["*.json", "*.safetensors", "*.jinja", "*.model"]))
    except Exception as error:  # the hub client raises a dozen unrelated kinds
        raise ArtifactError(
            f"There is no model directory {reference!r}, and the hub did not give one ({type(error).__name__}). "
            "Check the name, or download the model and give its path."
        ) from error
