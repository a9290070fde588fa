"""Direct preference optimization through TRL, on a model of two layers."""

import json
from dataclasses import replace
from math import log

import pytest
import torch
from transformers import AutoModelForCausalLM

from service.contract.errors import ArtifactError, ConfigurationError
from service.contract.policy import load_policy
from trainer.export import export_policy
from trainer.methods import MethodConfig, align, dpo
from trainer.methods.models import fresh
from trainer.methods.pairs import read_pairs
from trainer.methods.run import Run

pytestmark = pytest.mark.slow

QUICK = MethodConfig(
    epochs=1.0,
    chosen_weight=0.0,
    batch_size=8,
    lora_rank=4,
    lora_alpha=8,
    learning_rate=5e-3,
    log_steps=1,
    kl_pairs=2,
)
LOGPROB_TOLERANCE = 1e-3  # of a whole list in float32; sums are taken in another order


@pytest.fixture(scope="module")
def once(base_policy, pairs, base, tmp_path_factory):
    """The base aligned once by LoRA: the policy, beside its base."""
    work = tmp_path_factory.mktemp("once")
    config = replace(QUICK, epochs=2.0)
    options = {"policy": base_policy, "reference": base_policy, "work": work, "version": "once", "config": config}
    outcome = align("dpo", pairs, output=base.parent / "once", quiet=True, **options)
    return load_policy(outcome.directory), outcome, work


@pytest.fixture
def run(base_policy, pairs, tmp_path) -> Run:
    rows, _ = read_pairs(pairs, base_policy.tokenizer, 1024)
    return Run(
        method="dpo", pairs=rows, policy=base_policy, reference=base_policy, work=tmp_path, config=QUICK, quiet=True
    )


def test_a_batch_has_exactly_our_ids(run):
    batch = next(iter(dpo.trainer_of(run).get_train_dataloader()))

    rows = [ids[mask == 1].tolist() for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]
    responses = [
        ids[mask == 1].tolist() for ids, mask in zip(batch["input_ids"], batch["completion_mask"], strict=True)
    ]
    ours = {(p.prompt + p.chosen, p.prompt + p.rejected): (p.chosen, p.rejected) for p in run.pairs}
    assert len(rows) == 2 * QUICK.batch_size
    for k in range(QUICK.batch_size):  # the first half are the chosen, the second the rejected
        chosen, rejected = ours[tuple(rows[k]), tuple(rows[k + QUICK.batch_size])]
        assert responses[k] == list(chosen)
        assert responses[k + QUICK.batch_size] == list(rejected)


def test_before_the_first_update_the_loss_is_log_2_and_the_rewards_are_0(once):
    first = json.loads((once[2] / "metrics.jsonl").read_text().splitlines()[0])

    assert first["step"] == 1
    assert first["loss"] == pytest.approx(log(2), abs=1e-6)  # -log sigmoid(0)
    assert first["rewards/chosen"] == first["rewards/rejected"] == 0.0


def test_the_likelihood_of_chosen_lists_is_added_a_token(run, base):
    trainer = dpo.trainer_of(replace(run, config=replace(QUICK, chosen_weight=0.5)))
    batch = next(iter(trainer.get_train_dataloader()))

    with torch.no_grad():
        loss = trainer.compute_loss(trainer.model, batch)

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    chosen = [batch[name][:8] for name in ("input_ids", "completion_mask")]  # the first half
    logprob = sum(_logprob(model, ids, mask) for ids, mask in zip(*chosen, strict=True))
    assert loss.item() == pytest.approx(log(2) - 0.5 * logprob / int(chosen[1].sum()), abs=LOGPROB_TOLERANCE)


def test_training_raises_the_chosen_above_the_rejected(once):
    metrics = once[1].metrics

    assert metrics["step"] == 4  # 16 pairs, 2 epochs, 8 a step
    assert metrics["rewards/margins"] > 0.005
    assert metrics["rewards/accuracies"] > 0.5
    assert metrics["loss"] < log(2)
    assert metrics["kl"] > 0
    assert metrics["pairs"] == 16
    assert metrics["pairs_too_long"] == 0


def test_logged_log_probabilities_are_those_of_the_policy(run, base):
    trainer = dpo.trainer_of(run)
    batch = next(iter(trainer.get_train_dataloader()))

    with torch.no_grad():
        trainer.compute_loss(trainer.model, batch)

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    expected = [
        _logprob(model, ids, mask) for ids, mask in zip(batch["input_ids"], batch["completion_mask"], strict=True)
    ]
    logged = trainer._metrics["train"]
    assert logged["logps/chosen"] == [pytest.approx(sum(expected[:8]) / 8, abs=LOGPROB_TOLERANCE)]
    assert logged["logps/rejected"] == [pytest.approx(sum(expected[8:]) / 8, abs=LOGPROB_TOLERANCE)]


def test_an_adapter_policy_goes_on_from_its_weights_against_the_base(once, base_policy, run):
    run = replace(run, policy=once[0])
    trainer = dpo.trainer_of(run)
    batch = next(iter(trainer.get_train_dataloader()))

    dpo.fit(trainer, run)

    first = json.loads(run.metrics.read_text().splitlines()[0])
    ratios = [
        _logprob(fresh(once[0]), ids, mask) - _logprob(fresh(base_policy), ids, mask)
        for ids, mask in zip(batch["input_ids"], batch["completion_mask"], strict=True)
    ]
    assert first["rewards/chosen"] == pytest.approx(QUICK.beta * sum(ratios[:8]) / 8, abs=1e-4)
    assert first["rewards/rejected"] == pytest.approx(QUICK.beta * sum(ratios[8:]) / 8, abs=1e-4)
    assert abs(first["rewards/chosen"]) > 1e-3


def test_an_adapter_policy_can_be_its_own_reference(once, run):
    run = replace(run, policy=once[0], reference=once[0])

    dpo.train(run)

    first = json.loads(run.metrics.read_text().splitlines()[0])
    assert first["rewards/chosen"] == first["rewards/rejected"] == 0.0
    assert first["kl"] > 1e-5  # from the base, not from the reference


def test_an_adapter_can_be_the_reference_of_its_base(once, base_policy, run):
    run = replace(run, policy=base_policy, reference=once[0])

    dpo.train(run)  # would raise if the rewards before the first update were not base against adapter

    first = json.loads(run.metrics.read_text().splitlines()[0])
    assert abs(first["rewards/chosen"]) > 1e-3


def test_another_model_can_be_the_reference_of_an_adapter(run, base_policy, tmp_path):
    torch.manual_seed(5)
    other = fresh(base_policy)
    for weight in other.parameters():
        weight.add_(0.01 * torch.randn_like(weight))
    export = {"version": "other", "text_format": base_policy.tokenizer.format, "card": "# other\n"}
    export_policy(other, base_policy.directory, tmp_path / "other", **export)
    run = replace(run, reference=load_policy(tmp_path / "other"))

    dpo.train(run)  # would raise if the rewards before the first update were not base against other

    first = json.loads(run.metrics.read_text().splitlines()[0])
    assert abs(first["rewards/chosen"]) > 1e-3


def test_a_reference_that_is_not_what_it_says_stops_the_run(once, run, monkeypatch):
    monkeypatch.setattr(dpo, "reference_model", lambda run: fresh(once[0]).merge_and_unload())

    with pytest.raises(ArtifactError, match="reference was loaded from another place"):
        dpo.train(run)


def test_an_adapter_of_another_rank_is_refused(once, run):
    run = replace(run, policy=once[0], config=replace(QUICK, lora_rank=8))

    with pytest.raises(ConfigurationError, match="rank 4 and alpha 8"):
        dpo.train(run)


def test_every_weight_can_be_trained_from_an_adapter(once, base_policy, pairs, tmp_path):
    config = replace(QUICK, lora_rank=0, learning_rate=1e-3)

    align(
        "dpo",
        pairs,
        policy=once[0],
        reference=once[0],
        output=tmp_path / "whole",
        work=tmp_path / "work",
        version="whole",
        config=config,
        quiet=True,
    )

    policy = load_policy(tmp_path / "whole")
    assert policy.adapter is None
    assert policy.lineage == "once"
    assert policy.decoding == base_policy.decoding
    first = json.loads((tmp_path / "work" / "metrics.jsonl").read_text().splitlines()[0])
    assert first["rewards/chosen"] == pytest.approx(0.0, abs=1e-6)


def _logprob(model, ids, mask):
    with torch.no_grad():
        logprobs = model(input_ids=ids[None]).logits[0].log_softmax(-1)
    return sum(logprobs[at - 1, ids[at]].item() for at in range(len(ids)) if mask[at] == 1)
