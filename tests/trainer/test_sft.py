"""Supervised fine-tuning through TRL, on a model of one layer."""

import json
from collections import Counter
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from service.contract.artifact import verify
from service.contract.errors import ArtifactError
from service.contract.policy import load_policy
from tests.tiny_models import make_model
from trainer.encoding import Encoded, encode
from trainer.sft import IGNORED, SftConfig, annotated_lists, labelled, sft, train

QUICK = SftConfig(lists_per_task=4, rewrites=1, batch_size=10, save_steps=2, seed=2)  # 40 rows, 4 steps


@pytest.fixture(scope="module")
def rows(tiny_policy) -> list[Encoded]:
    tokenizer = load_policy(tiny_policy).tokenizer
    return [encode(example, tokenizer) for example in annotated_lists(QUICK)]


def test_only_the_response_has_labels():
    row = labelled(Encoded((1, 40, 41), (50, 3, 51, 2)), max_tokens=100)

    assert row["input_ids"] == [1, 40, 41, 50, 3, 51, 2]
    assert row["labels"] == [IGNORED, IGNORED, IGNORED, 50, 3, 51, 2]


def test_a_long_row_is_cut_with_its_labels():
    row = labelled(Encoded((1, 40, 41), (50, 3, 51, 2)), max_tokens=5)

    assert row == {"input_ids": [1, 40, 41, 50, 3], "labels": [IGNORED, IGNORED, IGNORED, 50, 3]}


def test_the_lists_are_as_many_of_each_task_as_asked_with_their_rewrites():
    counts = Counter(example.task for example in annotated_lists(QUICK))

    assert counts == dict.fromkeys(["suggest", "hint", "clarify", "predict", "snippets"], 8)  # 4 lists, 4 rewrites


def test_the_trained_loss_is_the_mean_over_response_tokens(tiny_policy, rows, tmp_path):
    config = replace(QUICK, batch_size=len(rows))
    model = AutoModelForCausalLM.from_pretrained(tiny_policy, dtype=torch.float32)
    total, count = 0.0, 0
    for row in rows:  # the slow obvious way: one row at a time, response tokens only
        ids = torch.tensor([row.prompt + row.response])
        logprobs = model(input_ids=ids).logits.log_softmax(-1)[0]
        for position in range(len(row.prompt), ids.shape[1]):
            total -= logprobs[position - 1, ids[0, position]].item()
            count += 1

    train(load_policy(tiny_policy), rows, tmp_path, config, quiet=True)

    logged = [json.loads(line)["loss"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert logged[0] == pytest.approx(total / count, abs=2e-3)


def test_a_run_publishes_a_merged_policy_that_serving_accepts(tiny_policy, tmp_path):
    output, work = tmp_path / "out", tmp_path / "work"

    sft(str(tiny_policy), output, work, replace(QUICK, lora_rank=4, epochs=2.0), version="tuned", quiet=True)

    policy = load_policy(output)
    assert policy.version == "tuned"
    assert verify(output)["training"]["base"] == "tiny"
    assert not list(output.glob("adapter*"))
    assert AutoModelForCausalLM.from_pretrained(output).dtype == torch.bfloat16
    assert (work / "loss.png").stat().st_size > 1000


def test_merging_adapters_leaves_the_outputs_as_they_were(tiny_policy, rows, tmp_path):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(tiny_policy, dtype=torch.float32)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)).eval()
    ids = torch.tensor([rows[0].prompt + rows[0].response])

    with torch.no_grad():
        before = adapted(input_ids=ids).logits
        after = adapted.merge_and_unload()(input_ids=ids).logits

    assert torch.allclose(before, after, atol=1e-4)


def test_a_run_that_was_interrupted_ends_with_the_same_weights(tiny_policy, rows, tmp_path):
    policy, config = load_policy(tiny_policy), replace(QUICK, epochs=1.0)

    at_once = train(policy, rows, tmp_path / "at_once", config, quiet=True)
    _forget_everything_after(tmp_path / "at_once", step=2)
    resumed = train(policy, rows, tmp_path / "at_once", config, quiet=True)

    for ours, theirs in zip(at_once.parameters(), resumed.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)


def test_nothing_is_trained_when_the_output_is_taken(tiny_policy, tmp_path):
    with pytest.raises(ArtifactError, match="exists already"):
        sft(str(tiny_policy), tiny_policy, tmp_path / "work", QUICK, version="again", quiet=True)

    assert not (tmp_path / "work").exists()


def test_any_causal_model_can_be_the_base(tmp_path):
    base = make_model(tmp_path / "qwen", "qwen")

    sft(str(base), tmp_path / "out", tmp_path / "work", replace(QUICK, lists_per_task=1), version="qwen-1", quiet=True)

    policy = load_policy(tmp_path / "out")
    assert policy.tokenizer.format.separator == " <SEP> "


def _forget_everything_after(work, *, step):
    """Leave what a run has on disk when it dies after its checkpoint of `step`."""
    from shutil import rmtree

    for checkpoint in work.glob("checkpoint-*"):
        if int(checkpoint.name.split("-")[1]) > step:
            rmtree(checkpoint)
