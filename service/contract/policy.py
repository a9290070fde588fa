"""A policy: a language model directory, how it writes lists, and proof that it was trained on this prompt.

It loads the tokenizer, never the weights; engines load those. A policy is a whole model, or a LoRA adapter on one.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from service.contract.artifact import MANIFEST, manifest_sha256, read_manifest, seal, verify
from service.contract.engine import Adapter, Sampling
from service.contract.errors import ArtifactError, PromptMismatch
from service.contract.settings import STARTER
from service.contract.tasks import all_tasks
from service.contract.tokenizer import PromptTokenizer, TextFormat, chat_template
from service.contract.types import PromptContext


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

    `adapter`: what goes with every request to the engine, None where the policy is a whole model. `base_directory`:
    the model that the adapter is trained on.
    """

    version: str
    directory: Path
    tokenizer: PromptTokenizer
    locales: tuple[str, ...]
    lineage: str | None = None
    decoding: Decoding = Decoding()
    adapter: Adapter | None = None
    base_directory: Path | None = None

    @property
    def model_directory(self) -> Path:
        """The model that an engine loads: the policy's own, or the one that its adapter is trained on."""
        return self.base_directory or self.directory

    def sampling(self, context: PromptContext, *, max_tokens: int, **how: Any) -> Sampling:
        """How it writes a list for this context: in its own decoding where `how` says nothing, and nothing twice.

        What the person asked already counts as said.
        """
        asked = (context.query or "", *context.session)
        return Sampling(
            max_tokens=max_tokens,
            stop_token_ids=self.tokenizer.eos_ids,
            distinct=self.tokenizer.distinct(asked),
            **asdict(self.decoding) | how,
        )


def load_policy(reference: str | Path) -> Policy:
    """The policy in a directory, or any Hugging Face causal model by path or hub id.

    A directory with our manifest is checked file by file and against the prompts of this code, and so is the base of
    an adapter. Any other model gets the literal separator, and its chat template where it has one.

    Raises:
        ArtifactError: A file is missing or altered, nothing can be found under that name, or the base of an adapter
            is not here, is another one or is an adapter itself.
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
        base = _base_named(manifest)
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"The manifest of {directory} is not a policy's: {error!r} is wrong. Give the directory of a policy."
        ) from None
    _check_prompts(version, prompts, text_format)
    return Policy(
        version=version,
        directory=directory,
        tokenizer=PromptTokenizer(directory, text_format),
        locales=locales,
        lineage=manifest.get("lineage"),
        decoding=decoding,
        adapter=_adapter(version, directory) if base else None,
        base_directory=_find_base(version, directory, base) if base else None,
    )


def version_named(reference: str | Path) -> str:
    """The version that `load_policy` would give, from the manifest alone."""
    try:
        return str(read_manifest(Path(reference))["version"])
    except (ArtifactError, KeyError):
        return str(reference)


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
    """Write the manifest of a trained policy, with the fingerprint of every task's prompt. Returns its SHA-256.

    That of an adapter has in `metadata` its `base`: {"version": ..., "manifest_sha256": ...}.
    """
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


@dataclass(frozen=True, slots=True)
class _Base:
    """The base that a manifest names."""

    version: str
    sha256: str


def _base_named(manifest: Mapping[str, Any]) -> _Base | None:
    if manifest.get("base") is None:
        return None
    named = _Base(str(manifest["base"]["version"]), str(manifest["base"]["manifest_sha256"]))
    if Path(named.version).name != named.version:
        raise ValueError("base")  # a version is the name of a directory, never a way to one
    return named


def _adapter(version: str, directory: Path) -> Adapter:
    """The same number for the same files, and for no others: engines cache by it."""
    digest = hashlib.sha256(f"{version}\n{manifest_sha256(directory)}".encode()).digest()
    return Adapter(version, int.from_bytes(digest[:4]) & 0x7FFFFFFF or 1, str(directory.absolute()))


def _find_base(version: str, directory: Path, base: _Base) -> Path:
    """The base beside the adapter, or the shipped policy; each must be the very one that it was trained on."""
    beside = directory.resolve().parent / base.version
    places = [place for place in (beside, STARTER) if _is_version(place, base.version)]
    if not places:
        raise ArtifactError(
            f"Policy {version} is an adapter on {base.version}, which is neither beside it nor the shipped policy. "
            f"Put {base.version} at {beside}, or promote a policy whose base is here."
        )
    for place in places:
        if manifest_sha256(place) == base.sha256:
            _refuse_adapter_on_adapter(version, base.version, verify(place))
            return place
    raise ArtifactError(
        f"Policy {version} is an adapter on another {base.version} than the one in {places[0]}: the SHA-256 of its "
        "manifest differs. Restore the base that it was trained on, or train it again on this one."
    )


def _is_version(place: Path, version: str) -> bool:
    try:
        return bool(read_manifest(place)["version"] == version)
    except (ArtifactError, KeyError):
        return False


def _refuse_adapter_on_adapter(version: str, base: str, manifest: Mapping[str, Any]) -> None:
    if manifest.get("base") is not None:
        raise ArtifactError(
            f"Policy {version} is an adapter on {base}, which is an adapter itself. Train it on the model that {base} is "
            "trained on."
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
