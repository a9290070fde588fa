"""Model directories that can be trusted: they appear whole by rename, and carry a SHA-256 of every file.

It knows nothing about what is inside them, nor about the database that lists them.
"""

import hashlib
import json
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

from service.contract.errors import ArtifactError

MANIFEST = "manifest.json"


def seal(directory: Path, metadata: dict[str, Any]) -> str:
    """Write `manifest.json` with `metadata` and the SHA-256 of every other file; returns the manifest's own SHA-256."""
    files = {str(path.relative_to(directory)): _sha256(path) for path in _files(directory)}
    if not files:
        raise ArtifactError(f"{directory} has no files to seal. Save the model into it first.")
    text = json.dumps({**metadata, "files": files}, indent=2, sort_keys=True) + "\n"
    (directory / MANIFEST).write_text(text)
    return hashlib.sha256(text.encode()).hexdigest()


def publish(draft: Path, destination: Path) -> None:
    """Make `draft` appear at `destination` in one rename, its files on disk first.

    Raises:
        ArtifactError: There is a version there already; versions never change.
    """
    if destination.exists():
        raise ArtifactError(f"{destination} exists already, and a version never changes. Publish under a new name.")
    destination.parent.mkdir(parents=True, exist_ok=True)
    staged = destination.parent / f".{destination.name}.{uuid.uuid4().hex}"
    shutil.copytree(draft, staged)
    for path in [*_files(staged), staged / MANIFEST, staged]:
        _fsync(path)
    os.rename(staged, destination)
    _fsync(destination.parent)


def verify(directory: Path) -> dict[str, Any]:
    """The manifest of `directory`, when every file it lists is there and unaltered.

    Raises:
        ArtifactError: No manifest, or a file is missing or altered; the text names the first one.
    """
    manifest = read_manifest(directory)
    for name, expected in manifest["files"].items():
        if not (directory / name).is_file():
            raise ArtifactError(f"{directory / name} is missing. Restore it from a backup, or publish the model again.")
        if _sha256(directory / name) != expected:
            raise ArtifactError(
                f"{directory / name} is not the file that was published: its SHA-256 differs. Usually the disk or a "
                "copy damaged it: restore it from a backup, or publish the model again."
            )
    return manifest


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of `directory`, without a look at the files.

    Raises:
        ArtifactError: There is none, or it cannot be read.
    """
    path = directory / MANIFEST
    if not path.is_file():
        raise ArtifactError(f"{directory} has no {MANIFEST}, so it cannot be checked. Publish the model again.")
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
        return {**manifest, "files": dict(manifest["files"])}
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path} cannot be read ({error}). Publish the model again.") from None


def manifest_sha256(directory: Path) -> str:
    """SHA-256 of the manifest, which stands for all files of the version."""
    return _sha256(directory / MANIFEST)


def _files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file() and path.name != MANIFEST)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
