"""A policy is taken when its files are those that were published and its prompts those of this code."""

import json
import shutil
from pathlib import Path

import pytest

from service.contract.artifact import MANIFEST
from service.contract.errors import ArtifactError, PromptMismatch
from service.contract.policy import load_policy, seal_policy, version_named
from service.contract.settings import STARTER
from service.contract.tasks import all_tasks
from service.contract.tokenizer import TextFormat
from service.contract.types import PromptContext
from tests.fakes import CHAT_TEMPLATE
from tests.service_process import adapter_policy
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


def test_a_policy_samples_as_its_manifest_says_and_nothing_that_was_asked(sealed: Path) -> None:
    policy = load_policy(sealed)
    context = PromptContext(n=2, query="Rice", session=("beans",))

    sampling = policy.sampling(context, max_tokens=7, temperature=0.1)

    assert (sampling.max_tokens, sampling.temperature, sampling.top_p) == (7, 0.1, policy.decoding.top_p)
    assert sampling.distinct is not None
    assert all(sampling.distinct.repeats(policy.tokenizer.encode(text)) for text in ("rice", "Rice", "beans"))
    assert not sampling.distinct.repeats(policy.tokenizer.encode("peas"))


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


@pytest.fixture
def adapter(sealed: Path) -> Path:
    """An adapter on the sealed policy, which lies beside it."""
    base = sealed.rename(sealed.parent / "sft-1")
    return adapter_policy(base.parent / "dpo-1", base)


def test_an_adapter_is_loaded_with_its_base(adapter: Path) -> None:
    policy = load_policy(adapter)

    assert (policy.version, policy.directory) == ("dpo-1", adapter)
    assert policy.model_directory == adapter.parent / "sft-1"
    assert policy.adapter is not None
    assert (policy.adapter.name, policy.adapter.path) == ("dpo-1", str(adapter))
    assert policy.tokenizer.separator_ids == (SEP_ID,)


def test_a_whole_model_is_its_own_and_has_no_adapter(sealed: Path) -> None:
    policy = load_policy(sealed)

    assert (policy.model_directory, policy.adapter) == (sealed, None)


def test_the_number_of_an_adapter_stays_and_is_another_for_other_files(adapter: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(adapter, tmp_path / "elsewhere" / "dpo-1")
    shutil.copytree(adapter.parent / "sft-1", tmp_path / "elsewhere" / "sft-1")
    other = adapter_policy(adapter.parent / "dpo-2", adapter.parent / "sft-1")

    numbers = [policy.adapter.number for policy in map(load_policy, (adapter, moved, other)) if policy.adapter]

    assert numbers[0] == numbers[1] != numbers[2]
    assert all(0 < number < 2**31 for number in numbers)


def test_an_adapter_on_the_shipped_policy_needs_no_copy_of_it(tmp_path: Path) -> None:
    policy = load_policy(adapter_policy(tmp_path / "dpo-1", STARTER))

    assert policy.model_directory == STARTER


def test_an_adapter_without_its_base_is_refused_with_the_way_out(adapter: Path) -> None:
    shutil.rmtree(adapter.parent / "sft-1")

    with pytest.raises(ArtifactError, match=r"neither beside it nor the shipped policy. Put sft-1 at .*/sft-1, or"):
        load_policy(adapter)


def test_another_policy_under_the_name_of_the_base_is_no_base(adapter: Path) -> None:
    base = adapter.parent / "sft-1"
    shutil.rmtree(base)
    seal_policy(make_tokenizer(base), version="sft-1", text_format=SEPARATOR, lineage="another")

    with pytest.raises(ArtifactError, match="an adapter on another sft-1 than the one in"):
        load_policy(adapter)


def test_a_base_of_another_version_in_the_place_of_the_base_is_no_base(adapter: Path) -> None:
    change_manifest(adapter.parent / "sft-1", version="sft-2")

    with pytest.raises(ArtifactError, match="neither beside it nor the shipped policy"):
        load_policy(adapter)


@pytest.mark.parametrize("where", ["dpo-1", "sft-1"])
def test_an_altered_file_of_adapter_or_base_is_refused(adapter: Path, where: str) -> None:
    damaged = adapter.parent / where / "tokenizer.json"
    damaged.write_bytes(damaged.read_bytes() + b" ")

    with pytest.raises(ArtifactError, match=rf"{where}/tokenizer\.json is not the file that was published"):
        load_policy(adapter)


def test_an_adapter_on_an_adapter_is_refused(adapter: Path) -> None:
    second = adapter_policy(adapter.parent / "dpo-2", adapter)

    with pytest.raises(ArtifactError, match="an adapter on dpo-1, which is an adapter itself"):
        load_policy(second)


def test_an_adapter_of_another_prompt_is_refused(adapter: Path) -> None:
    change_manifest(adapter, prompts={"hint": "0123456789abcdef"})

    with pytest.raises(PromptMismatch, match="Policy dpo-1 was trained on prompt"):
        load_policy(adapter)


@pytest.mark.parametrize("base", ["sft-1", {}, {"version": "sft-1"}, {"version": "../sft-1", "manifest_sha256": "0"}])
def test_a_base_that_is_not_named_rightly_is_refused(adapter: Path, base: object) -> None:
    change_manifest(adapter, base=base)

    with pytest.raises(ArtifactError, match="not a policy's"):
        load_policy(adapter)


@pytest.mark.parametrize("reference", ["sft-1", "dpo-1"])
def test_the_version_of_a_reference_is_told_without_loading_it(adapter: Path, reference: str) -> None:
    place = adapter.parent / reference

    assert version_named(place) == reference == load_policy(place).version


def test_the_version_of_a_model_from_elsewhere_is_its_name(tmp_path: Path) -> None:
    directory = make_tokenizer(tmp_path)

    assert version_named(directory) == str(directory) == load_policy(directory).version
