"""A policy is taken when its files are those that were published and its prompts those of this code."""

import json
from pathlib import Path

import pytest

from service.contract.artifact import MANIFEST
from service.contract.errors import ArtifactError, PromptMismatch
from service.contract.policy import load_policy, seal_policy
from service.contract.tasks import all_tasks
from service.contract.tokenizer import TextFormat
from tests.fakes import CHAT_TEMPLATE
from tests.tiny_models import SEP_ID, make_tokenizer

SEPARATOR = TextFormat(separator="<sep>", separator_is_token=True)


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    """The directory of a policy of ours, without weights."""
    directory = make_tokenizer(tmp_path / "policy")
    seal_policy(directory, version="sft-1", text_format=SEPARATOR, lineage="base-1")
    return directory


def change_manifest(directory: Path, **changes: object) -> None:
    manifest = json.loads((directory / MANIFEST).read_text())
    kept = {name: value for name, value in {**manifest, **changes}.items() if value is not None}
    (directory / MANIFEST).write_text(json.dumps(kept))


def test_a_sealed_policy_is_loaded_as_its_manifest_says(sealed: Path) -> None:
    policy = load_policy(sealed)

    assert (policy.version, policy.locales, policy.lineage, policy.directory) == ("sft-1", ("en",), "base-1", sealed)
    assert policy.tokenizer.separator_ids == (SEP_ID,)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_an_altered_file_is_refused_by_name(sealed: Path, name: str) -> None:
    (sealed / name).write_bytes((sealed / name).read_bytes() + b" ")

    with pytest.raises(ArtifactError, match=f"{name} is not the file that was published"):
        load_policy(sealed)


def test_a_missing_file_is_refused_by_name(sealed: Path) -> None:
    (sealed / "tokenizer.json").unlink()

    with pytest.raises(ArtifactError, match=r"tokenizer\.json is missing"):
        load_policy(sealed)


def test_a_policy_of_another_prompt_is_refused_in_a_sentence(sealed: Path) -> None:
    now = all_tasks()["hint"].fingerprint(SEPARATOR)
    change_manifest(sealed, prompts={"hint": "0123456789abcdef"})

    with pytest.raises(PromptMismatch) as refused:
        load_policy(sealed)

    assert str(refused.value) == (
        f"Policy sft-1 was trained on prompt 0123456789abcdef of task 'hint'; the code renders {now}. "
        "Usually the template changed after training: retrain, or promote the policy trained on it."
    )


@pytest.mark.parametrize(
    "changes", [{"format": None}, {"format": {"colour": "red"}}, {"prompts": None}, {"version": None}, {"locales": 3}]
)
def test_the_manifest_of_something_else_is_refused(sealed: Path, changes: dict[str, object]) -> None:
    change_manifest(sealed, **changes)

    with pytest.raises(ArtifactError, match="not a policy's"):
        load_policy(sealed)


def test_any_model_directory_serves_with_the_literal_separator(tmp_path: Path) -> None:
    policy = load_policy(make_tokenizer(tmp_path))

    assert policy.tokenizer.format == TextFormat()
    assert policy.locales == ("*",)


@pytest.mark.parametrize(("template", "chat"), [(CHAT_TEMPLATE, True), (None, False)])
def test_a_model_from_elsewhere_is_asked_through_its_chat_template_where_it_has_one(
    tmp_path: Path, template: str | None, chat: bool
) -> None:
    directory = make_tokenizer(tmp_path)
    (directory / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))

    assert load_policy(directory).tokenizer.format.chat is chat


@pytest.mark.parametrize("reference", ["/nowhere/at/all", "not a name"])
def test_a_model_that_is_nowhere_is_refused_with_the_way_out(reference: str) -> None:
    with pytest.raises(ArtifactError, match="Check the name, or download the model"):
        load_policy(reference)
