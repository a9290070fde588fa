"""Kahneman-Tversky optimization through TRL, on a model of two layers."""

import json
from dataclasses import replace

import pytest
import torch

from service.contract.errors import ArtifactError
from tests.trainer.methods.conftest import pair_rows, write_pairs
from trainer.methods import MethodConfig, align, kto
from trainer.methods.pairs import PairIds, read_pairs
from trainer.methods.run import Run

pytestmark = pytest.mark.slow

QUICK = MethodConfig(epochs=5.0, batch_size=8, lora_rank=4, lora_alpha=8, learning_rate=5e-3, log_steps=1, kl_pairs=2)


@pytest.fixture
def run(base_policy, pairs, tmp_path) -> Run:
    rows, _ = read_pairs(pairs, base_policy.tokenizer, 1024)
    return Run(
        method="kto", pairs=rows, policy=base_policy, reference=base_policy, work=tmp_path, config=QUICK, quiet=True
    )


def test_each_list_is_a_row_with_our_ids_and_the_next_response_of_its_batch(run):
    batch = next(iter(kto.trainer_of(run).get_train_dataloader()))

    wanted = {pair.prompt + pair.chosen for pair in run.pairs}
    unwanted = {pair.prompt + pair.rejected for pair in run.pairs}
    completions, turned = [], []
    for k in range(QUICK.batch_size):
        ids, mask = batch["input_ids"][k], batch["attention_mask"][k]
        row = tuple(ids[mask == 1].tolist())
        assert row in (wanted if batch["label"][k] else unwanted)
        completions.append(ids[batch["completion_mask"][k] == 1].tolist())
        turned.append(batch["KL_input_ids"][k][batch["KL_completion_mask"][k] == 1].tolist())
    assert turned == [completions[-1], *completions[:-1]]


def test_before_the_first_update_the_rewards_are_0_and_the_loss_is_a_half(run):
    trainer = kto.trainer_of(run)

    trainer_loss = trainer.compute_loss(trainer.model, next(iter(trainer.get_train_dataloader())))

    assert trainer_loss.item() == pytest.approx(0.5)  # 1 - sigmoid(0), its eq. 7
    assert trainer._metrics["train"]["kl"] == [0.0]


def test_training_raises_what_is_to_be_written_above_what_is_not(run, pairs, base_policy):
    models = {"policy": base_policy, "reference": base_policy}
    output = base_policy.directory.parent / f"kto-{run.work.name}"

    outcome = align("kto", pairs, output=output, work=run.work / "w", version="k", config=QUICK, quiet=True, **models)

    lines = [json.loads(line) for line in (run.work / "w" / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["rewards/chosen"] == lines[0]["rewards/rejected"] == 0.0
    assert outcome.metrics["rewards/margins"] > 0.005
    assert outcome.metrics["step"] == 20  # 32 lists, 5 epochs, 8 a step


def test_lists_of_other_prompts_may_be_what_is_not_to_be_written(tmp_path, base_policy, run):
    rows = pair_rows(base_policy, 16)
    for number, row in enumerate(rows):
        row["rejected" if number % 2 else "chosen"] = None
    write_pairs(tmp_path / "single.parquet", rows)

    found, _ = read_pairs(tmp_path / "single.parquet", base_policy.tokenizer, 1024)
    lists = kto.single_lists(replace(run, pairs=found))

    assert [row["label"] for row in lists] == [True] * 8 + [False] * 8


def test_both_kinds_weigh_the_same_however_many_there_are(run):
    pairs = [replace(pair, rejected=()) if number > 3 else pair for number, pair in enumerate(run.pairs)]

    trainer = kto.trainer_of(replace(run, pairs=pairs))

    assert trainer.desirable_weight == 1.0
    assert trainer.undesirable_weight == pytest.approx(16 / 4)


@pytest.mark.parametrize("kept", ["chosen", "rejected"])
def test_one_kind_alone_is_refused(run, kept):
    other = {"chosen": "rejected", "rejected": "chosen"}[kept]
    pairs = [replace(pair, **{other: ()}) for pair in run.pairs]

    with pytest.raises(ArtifactError, match="needs lists to write and lists not to write"):
        kto.trainer_of(replace(run, pairs=pairs))


def test_a_pair_with_one_list_is_none_for_methods_that_compare(run):
    single = [replace(pair, rejected=()) for pair in run.pairs]

    assert not single[0].is_whole
    assert len(single[0]) == len(single[0].prompt) + len(single[0].chosen)
    assert replace(run, pairs=[*single, *run.pairs]).whole_pairs() == list(run.pairs)
    with pytest.raises(ArtifactError, match="none of the 16 pairs has both"):
        replace(run, pairs=single).whole_pairs()


def test_padding_changes_no_loss(run):
    short = PairIds(run.pairs[0].prompt, run.pairs[0].chosen, run.pairs[0].rejected)
    trainer = kto.trainer_of(replace(run, pairs=[short], config=replace(QUICK, batch_size=2)))
    batch = next(iter(trainer.get_train_dataloader()))
    padded = {
        name: torch.nn.functional.pad(value, (0, 5)) if value.dim() == 2 else value for name, value in batch.items()
    }

    with torch.no_grad():
        assert trainer.compute_loss(trainer.model, padded).item() == pytest.approx(
            trainer.compute_loss(trainer.model, batch).item(), abs=1e-6
        )
