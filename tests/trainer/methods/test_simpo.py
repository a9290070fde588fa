"""Simple preference optimization through TRL, on a model of two layers."""

import json
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import logsigmoid
from transformers import AutoModelForCausalLM

from service.contract.errors import ArtifactError
from trainer.methods import MethodConfig, align, simpo
from trainer.methods.pairs import read_pairs
from trainer.methods.run import Run

pytestmark = pytest.mark.slow

QUICK = MethodConfig(epochs=2.0, batch_size=8, lora_rank=4, lora_alpha=8, learning_rate=5e-3, log_steps=1, kl_pairs=2)
LOSS_TOLERANCE = 1e-4  # float32; sums are taken in another order


@pytest.fixture
def run(base_policy, pairs, tmp_path) -> Run:
    rows, _ = read_pairs(pairs, base_policy.tokenizer, 1024)
    return Run(
        method="simpo", pairs=rows, policy=base_policy, reference=base_policy, work=tmp_path, config=QUICK, quiet=True
    )


def test_the_loss_is_that_of_the_paper_on_exactly_our_ids(run, base):
    trainer = simpo.trainer_of(run)
    batch = next(iter(trainer.get_train_dataloader()))

    with torch.no_grad():
        loss = trainer.compute_loss(trainer.model, batch)

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    of_ids = {(*pair.prompt, *pair.chosen): pair for pair in run.pairs}
    losses = []
    for ids, mask in zip(batch["chosen_input_ids"], batch["chosen_attention_mask"], strict=True):
        pair = of_ids[tuple(ids[mask == 1].tolist())]
        chosen, rejected = (_mean_logprob(model, pair.prompt, each) for each in (pair.chosen, pair.rejected))
        losses.append(-logsigmoid(simpo.BETA * (chosen - rejected) - simpo.GAMMA))  # its eq. 6
    assert loss.item() == pytest.approx(torch.stack(losses).mean().item(), abs=LOSS_TOLERANCE)


def test_training_raises_the_chosen_above_the_rejected(run, pairs, base_policy):
    models = {"policy": base_policy, "reference": base_policy}
    output = base_policy.directory.parent / f"simpo-{run.work.name}"
    config = replace(QUICK, batch_size=16, epochs=6.0)  # each step has all pairs

    outcome = align("simpo", pairs, output=output, work=run.work, version="s", config=config, quiet=True, **models)

    first = json.loads((run.work / "metrics.jsonl").read_text().splitlines()[0])
    assert outcome.metrics["rewards/margins"] > first["rewards/margins"] + 0.005
    assert outcome.metrics["loss"] < first["loss"]
    assert outcome.metrics["kl"] > 0
    assert outcome.metrics["step"] == 6


def test_single_lists_are_refused(run):
    with pytest.raises(ArtifactError, match="compares two lists of one prompt"):
        simpo.trainer_of(replace(run, pairs=[replace(pair, rejected=()) for pair in run.pairs]))


def _mean_logprob(model, prompt, response) -> torch.Tensor:
    ids = torch.tensor([prompt + response])
    with torch.no_grad():
        logprobs = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
    picked = logprobs.gather(1, ids[0, 1:, None])[len(prompt) - 1 :, 0]
    return picked.mean()
