"""A run of a method from a file of pairs to a published policy."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from service.contract.artifact import manifest_sha256, verify
from service.contract.errors import ArtifactError, ConfigurationError
from service.contract.policy import load_policy
from tests.trainer.methods.conftest import pair_rows, write_pairs
from trainer.methods import MethodConfig, align, dpo, names
from trainer.methods import sft as sft_on_chosen
from trainer.methods.models import fresh
from trainer.methods.pairs import read_pairs
from trainer.methods.publish import publish
from trainer.methods.run import Run

pytestmark = pytest.mark.slow

QUICK = MethodConfig(
    epochs=1.0, batch_size=4, lora_rank=4, lora_alpha=8, learning_rate=5e-3, save_steps=2, log_steps=1, kl_pairs=2
)
RESUME_TOLERANCE = 1e-6  # largest difference of a weight between a run at once and one that was killed
LOGIT_TOLERANCE = 1e-5  # of the trained model and of what is loaded from its files, float32


@pytest.fixture(scope="module")
def one(base_policy, pairs, tmp_path_factory):
    """What `align` was given for the policy "one", published into a folder where the base lies as well, and its outcome."""
    root = tmp_path_factory.mktemp("one")
    shutil.copytree(base_policy.directory, root / "policies" / "base")
    models = {"policy": base_policy, "reference": base_policy}
    options = {**models, "output": root / "policies" / "one", "work": root / "work", "version": "one"}
    options |= {"config": QUICK, "quiet": True}
    return options, align("dpo", pairs, **options)


@pytest.fixture
def options(one, tmp_path):
    """The same for a run of another name."""
    return {**one[0], "output": one[0]["output"].parent / tmp_path.name, "work": tmp_path / "work", "version": "two"}


def test_the_methods_are_found_by_their_files():
    assert {"dpo", "kto", "sft", "simpo"} == set(names())
    assert "fit" not in names()


def test_an_unknown_method_is_refused_with_those_there_are(pairs, options):
    with pytest.raises(ConfigurationError, match=r"no method 'wish'.*dpo"):
        align("wish", pairs, **options)


@pytest.mark.parametrize("method", names())
def test_a_run_publishes_one_adapter_on_the_base(method, one, pairs, base_policy, options):
    outcome = one[1] if method == "dpo" else align(method, pairs, **options)

    policy, manifest = load_policy(outcome.directory), verify(outcome.directory)
    assert manifest_sha256(outcome.directory) == outcome.manifest_sha256
    assert policy.version == outcome.version
    assert policy.lineage == "base"
    assert policy.adapter is not None
    assert manifest_sha256(policy.model_directory) == manifest_sha256(base_policy.directory)
    assert manifest["base"] == {"version": "base", "manifest_sha256": manifest_sha256(base_policy.directory)}
    assert manifest["training"]["method"] == method
    assert manifest["training"]["figures"] == outcome.metrics
    assert outcome.metrics["kl"] > 0


def test_an_adapter_has_no_path_of_this_machine_and_no_embeddings(one):
    options, outcome = one

    config = json.loads((outcome.directory / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "base"
    assert config["target_modules"] == sorted(config["target_modules"])
    assert not {"embed_tokens", "lm_head"} & set(config["target_modules"])
    assert config["modules_to_save"] is None
    for file in outcome.directory.glob("*.[jm][sd]*"):  # JSON and the model card
        assert str(options["work"].parent) not in file.read_text()
    assert not list(outcome.directory.glob("model*.safetensors"))


def test_the_figures_are_drawn(one):
    drawn = {file.name for file in one[0]["work"].glob("*.png")}

    assert drawn == {"loss.png", "margins.png", "logps.png", "kl.png"}


def test_base_and_adapter_from_disk_answer_as_the_trained_model(pairs, base_policy, tmp_path):
    rows, _ = read_pairs(pairs, base_policy.tokenizer, 1024)
    run = Run(
        method="dpo", pairs=rows, policy=base_policy, reference=base_policy, work=tmp_path, config=QUICK, quiet=True
    )
    trainer = dpo.trainer_of(run)
    dpo.fit(trainer, run)

    publish(run, tmp_path / "adapter", "one", run.figures())

    base = AutoModelForCausalLM.from_pretrained(base_policy.directory, dtype=torch.float32)
    ids = torch.tensor([rows[0].prompt + rows[0].chosen])
    with torch.no_grad():
        trained, plain = trainer.model(input_ids=ids).logits, base(input_ids=ids).logits
        adapted = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
        loaded, merged = adapted(input_ids=ids).logits, adapted.merge_and_unload()(input_ids=ids).logits
    assert torch.allclose(loaded, trained, atol=LOGIT_TOLERANCE)
    assert torch.allclose(merged, trained, atol=LOGIT_TOLERANCE)
    assert not torch.allclose(plain, trained, atol=100 * LOGIT_TOLERANCE)


def test_an_adapter_trained_on_is_again_one_adapter_on_the_base(one, pairs, options):
    first = load_policy(one[1].directory)
    options |= {"policy": first, "reference": first, "config": replace(QUICK, learning_rate=1e-12)}

    outcome = align("sft", pairs, **options)

    second = load_policy(outcome.directory)
    assert second.lineage == "one"
    assert verify(second.directory)["base"]["version"] == "base"
    for before, after in zip(fresh(first).parameters(), fresh(second).parameters(), strict=True):
        assert torch.allclose(before, after, atol=1e-8)  # with next to no learning rate it stays where it began


def test_sft_trains_on_each_chosen_list_once(base_policy, tmp_path, monkeypatch):
    rows = pair_rows(base_policy, 4)
    rows += [{**row, "rejected": row["chosen"].lower() + " again"} for row in rows]
    read, _ = read_pairs(write_pairs(tmp_path / "pairs", rows), base_policy.tokenizer, 1024)
    run = Run(method="sft", pairs=read, policy=base_policy, reference=base_policy, work=tmp_path, config=QUICK)
    given = []
    monkeypatch.setattr(sft_on_chosen, "fit", lambda trainer, run: given.extend(trainer.train_dataset))

    sft_on_chosen.train(run)

    assert len(read) == 8
    expected = {(*pair.prompt, *pair.chosen): len(pair.prompt) for pair in read}
    assert sorted(tuple(row["input_ids"]) for row in given) == sorted(expected)
    for row in given:
        prompt = expected[tuple(row["input_ids"])]
        assert row["labels"] == [-100] * prompt + row["input_ids"][prompt:]


def test_a_run_that_was_killed_ends_with_the_same_weights(one, pairs, options):
    shutil.copytree(one[0]["work"], options["work"])
    _forget_everything_after(options["work"], step=2)

    resumed = align("dpo", pairs, **options)

    _assert_same_weights(one[1], resumed)
    assert _steps(options["work"]) == _steps(one[0]["work"]) == [1, 2, 3, 4]


def test_a_killed_run_against_an_adapter_ends_with_the_same_weights(one, pairs, options, tmp_path):
    first = load_policy(one[1].directory)
    options |= {"policy": first, "reference": first}
    at_once = align("dpo", pairs, **options)
    _forget_everything_after(options["work"], step=2)

    resumed = align("dpo", pairs, **options | {"output": options["output"].parent / "resumed"})

    _assert_same_weights(at_once, resumed)


def test_a_run_that_was_killed_before_it_published_trains_no_more(one, pairs, options, monkeypatch):
    shutil.copytree(one[0]["work"], options["work"])
    monkeypatch.setattr(dpo._Dpo, "training_step", None)  # calling it would fail

    outcome = align("dpo", pairs, **options)

    assert outcome.metrics == one[1].metrics


@pytest.mark.filterwarnings("ignore")
def test_a_loss_that_is_no_number_publishes_nothing(pairs, options):
    with pytest.raises(ArtifactError, match=r"loss of step .* nothing is published"):
        align("dpo", pairs, **options | {"config": replace(QUICK, learning_rate=1e30)})

    assert not options["output"].exists()


@pytest.mark.filterwarnings("ignore")
def test_weights_that_are_no_numbers_after_the_last_step_publish_nothing(pairs, options):
    config = replace(QUICK, learning_rate=float("inf"), batch_size=16)  # one step, whose loss is still right

    with pytest.raises(ArtifactError, match="no finite number after training"):
        align("sft", pairs, **options | {"config": config})

    assert not options["output"].exists()


def test_nothing_is_trained_when_the_output_is_taken(pairs, options):
    with pytest.raises(ArtifactError, match="exists already"):
        align("dpo", pairs, **options | {"output": options["policy"].directory})

    assert not options["work"].exists()


def test_only_the_first_process_publishes(pairs, options, monkeypatch):
    trained = []
    monkeypatch.setattr(dpo, "train", trained.append)
    monkeypatch.setenv("RANK", "1")

    outcome = align("dpo", pairs, **options)

    assert trained
    assert outcome.manifest_sha256 == ""
    assert not options["output"].exists()


def _assert_same_weights(one, other):
    models = (fresh(load_policy(outcome.directory)) for outcome in (one, other))
    for ours, theirs in zip(*(model.parameters() for model in models), strict=True):
        assert torch.allclose(ours, theirs, atol=RESUME_TOLERANCE)


def _steps(work):
    return [json.loads(line)["step"] for line in (work / "metrics.jsonl").read_text().splitlines()]


def _forget_everything_after(work, *, step):
    """Leave what a run has on disk when it dies after its checkpoint of `step`; it had begun the next one."""
    shutil.rmtree(work / "trained")
    for checkpoint in work.glob("checkpoint-*"):
        if int(checkpoint.name.split("-")[1]) > step:
            (checkpoint / "trainer_state.json").unlink()
