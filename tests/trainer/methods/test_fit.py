"""What every method shares: the order of rows, the divergence, the checkpoint to go on from."""

import json
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from service.contract.errors import ConfigurationError
from trainer.methods import MethodConfig, dpo
from trainer.methods.fit import arguments, in_order, newest_checkpoint
from trainer.methods.pairs import read_pairs
from trainer.methods.run import Run
from trainer.methods.watch import Divergence

QUICK = MethodConfig(batch_size=4, lora_rank=4, lora_alpha=8)


@pytest.fixture
def run(base_policy, pairs, tmp_path) -> Run:
    rows, _ = read_pairs(pairs, base_policy.tokenizer, 1024)
    return Run(method="dpo", pairs=rows, policy=base_policy, reference=base_policy, work=tmp_path, config=QUICK)


def test_every_row_comes_once_an_epoch():
    config = replace(QUICK, epochs=2.0)

    order = in_order([5, 9, 1, 7, 3, 8, 2], config)

    assert sorted(order) == sorted([*range(7), *range(7)])


def test_half_an_epoch_has_half_of_the_rows():
    order = in_order(list(range(100)), replace(QUICK, epochs=0.5))

    assert len(set(order)) == len(order) == 50


def test_rows_of_one_batch_are_alike_in_length():
    lengths = [(37 * k) % 101 for k in range(100)]  # all different

    order = in_order(lengths, replace(QUICK, batch_size=10))

    for first in range(0, 100, 10):
        batch = [lengths[row] for row in order[first : first + 10]]
        assert max(batch) - min(batch) <= 11  # ten neighbours of all lengths 0 to 100 but one


def test_the_order_depends_on_the_seed_alone(monkeypatch):
    lengths = list(range(64))
    alone = in_order(lengths, QUICK)
    monkeypatch.setenv("WORLD_SIZE", "2")

    assert in_order(lengths, QUICK) == alone
    assert in_order(lengths, replace(QUICK, seed=8)) != alone


def test_processes_and_passes_share_the_batch(run, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")

    shared = arguments(replace(run, config=replace(QUICK, batch_size=12, accumulation_steps=3)), 12, 1e-3)

    assert shared["per_device_train_batch_size"] == 2  # 12 pairs / (2 processes x 3 passes)
    with pytest.raises(ConfigurationError, match="cannot be shared by 6"):
        arguments(replace(run, config=replace(QUICK, batch_size=4, accumulation_steps=3)), 12, 1e-3)


def test_the_learning_rate_of_the_configuration_comes_before_that_of_the_method(run):
    assert arguments(run, 16, 1e-3)["learning_rate"] == 1e-3
    assert arguments(replace(run, config=replace(QUICK, learning_rate=2e-5)), 16, 1e-3)["learning_rate"] == 2e-5


def test_a_checkpoint_that_a_kill_cut_short_is_passed_over(tmp_path):
    for step, state in ((2, '{"global_step": 2}'), (4, '{"global_step": 4}'), (6, '{"global_'), (8, None)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if state:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(state)

    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-4"
    assert newest_checkpoint(tmp_path / "checkpoint-8") is None


@pytest.mark.parametrize("rank", [4, 0])
def test_the_divergence_is_the_mean_over_response_tokens_of_the_kl_from_the_base(run, base, rank):
    run = replace(run, config=replace(QUICK, lora_rank=rank, kl_pairs=2))
    trainer = dpo.trainer_of(run)
    divergence = Divergence(trainer, run)
    before = divergence.measure()
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in (weight for weight in trainer.model.parameters() if weight.requires_grad):
            weight.add_(0.1 * torch.randn_like(weight))

    measured = divergence.measure()

    reference, total, count = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), 0.0, 0
    for pair in (run.pairs[0], run.pairs[8]):  # two of sixteen, evenly taken
        for response in (pair.chosen, pair.rejected):  # the slow obvious way: one list at a time
            ids = torch.tensor([pair.prompt + response])
            with torch.no_grad():
                log_p, log_q = (model(input_ids=ids).logits[0].log_softmax(-1) for model in (trainer.model, reference))
            for position in range(len(pair.prompt) - 1, ids.shape[1] - 1):
                total += sum((log_p[position].exp() * (log_p[position] - log_q[position])).tolist())
                count += 1
    assert before == pytest.approx(0.0, abs=1e-7)
    assert measured == pytest.approx(total / count, rel=1e-3)
    assert measured > 1e-4


def test_a_work_directory_goes_on_only_with_the_same_inputs(run):
    run.claim({"policy": "a", "beta": 0.1})
    run.claim({"policy": "a", "beta": 0.1})

    with pytest.raises(ConfigurationError, match="another run: beta differ"):
        run.claim({"policy": "a", "beta": 0.2})
    assert json.loads((run.work / "run.json").read_text()) == {"policy": "a", "beta": 0.1}
