"""A model directory appears whole or not at all, and is refused when one bit of it is not as it was."""

import json
from pathlib import Path

import pytest

from service.contract.artifact import MANIFEST, manifest_sha256, publish, seal, verify
from service.contract.errors import ArtifactError


@pytest.fixture
def model(tmp_path: Path) -> Path:
    directory = tmp_path / "draft"
    (directory / "tokenizer").mkdir(parents=True)
    (directory / "model.safetensors").write_bytes(bytes(range(256)) * 40)
    (directory / "tokenizer" / "vocabulary.json").write_text('{"a": 0}')
    seal(directory, {"version": "v1", "kind": "policy"})
    return directory


def test_a_sealed_directory_is_verified_and_gives_its_manifest(model: Path) -> None:
    manifest = verify(model)

    assert manifest["version"] == "v1"
    assert set(manifest["files"]) == {"model.safetensors", "tokenizer/vocabulary.json"}


def test_sealing_returns_the_checksum_that_stands_for_all_files(model: Path) -> None:
    assert seal(model, {"version": "v1"}) == manifest_sha256(model)


@pytest.mark.parametrize("byte", [0, 5000, 10_239])
def test_a_flipped_bit_is_refused(model: Path, byte: int) -> None:
    path = model / "model.safetensors"
    damaged = bytearray(path.read_bytes())
    damaged[byte] ^= 1
    path.write_bytes(damaged)

    with pytest.raises(ArtifactError, match="is not the file that was published"):
        verify(model)


def test_a_truncated_file_is_refused(model: Path) -> None:
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])

    with pytest.raises(ArtifactError, match="its SHA-256 differs"):
        verify(model)


def test_a_missing_file_is_refused(model: Path) -> None:
    (model / "tokenizer" / "vocabulary.json").unlink()

    with pytest.raises(ArtifactError, match="json is missing"):
        verify(model)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"files": 3}', '{"files": null}'])
def test_a_manifest_that_cannot_be_read_is_refused(model: Path, text: str) -> None:
    (model / MANIFEST).write_text(text)

    with pytest.raises(ArtifactError):
        verify(model)


def test_a_directory_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot be checked"):
        verify(tmp_path)


def test_an_empty_directory_cannot_be_sealed(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no files"):
        seal(tmp_path, {})


def test_publishing_makes_the_whole_directory_appear_and_leaves_nothing_beside(model: Path, tmp_path: Path) -> None:
    publish(model, tmp_path / "models" / "v1")

    assert verify(tmp_path / "models" / "v1") == verify(model)
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["v1"]


def test_a_version_that_is_there_is_never_replaced(model: Path, tmp_path: Path) -> None:
    publish(model, tmp_path / "models" / "v1")
    before = json.loads((tmp_path / "models" / "v1" / MANIFEST).read_text())
    seal(model, {"version": "other"})

    with pytest.raises(ArtifactError, match="never changes"):
        publish(model, tmp_path / "models" / "v1")

    assert verify(tmp_path / "models" / "v1") == before
