"""Pre-training of the base model, on a model of one layer."""

from dataclasses import replace
from itertools import islice

import pytest
import torch

from tests.trainer.tiny_llama import TINY
from trainer.batches import batches, padded
from trainer.encoding import Encoded
from trainer.pretrain import new_model, pretrain, weighted_loss


def test_padding_has_no_weight_and_a_prompt_token_less_than_a_response_token():
    rows = [Encoded((1, 5, 6), (7, 2)), Encoded((1, 5), (2,))]

    ids, weights = padded(rows, 0.25)

    assert ids.tolist() == [[1, 5, 6, 7, 2], [1, 5, 2, 0, 0]]
    assert weights.tolist() == [[0.25, 0.25, 0.25, 1, 1], [0.25, 0.25, 1, 0, 0]]


def test_the_batches_after_a_position_are_the_ones_that_would_have_come(tokenizer):
    whole = list(islice(batches(tokenizer, seed=1, tokens=512), 12))

    rest = list(islice(batches(tokenizer, seed=1, tokens=512, start=whole[4][0]), 7))

    assert rest == whole[5:]


def test_a_batch_holds_at_most_its_tokens_when_padded(tokenizer):
    for _, rows in islice(batches(tokenizer, seed=1, tokens=512), 60):
        assert len(rows) * max(map(len, rows)) <= 512 or len(rows) == 1


def test_some_rows_have_no_prompt_but_its_start(tokenizer):
    rows = [row for _, group in islice(batches(tokenizer, seed=1, tokens=2048), 60) for row in group]

    plain = [row for row in rows if row.prompt == tuple(tokenizer.start_ids)]

    assert 0.1 < sum(map(len, plain)) / sum(map(len, rows)) < 0.3
    assert all(row.response[-1] in tokenizer.eos_ids for row in plain)


@pytest.mark.slow
def test_a_run_that_was_interrupted_ends_with_the_same_weights(tokenizer, tmp_path):
    config = replace(TINY, total_tokens=3_000)

    at_once = pretrain(tokenizer, tmp_path / "at_once", config, quiet=True)
    pretrain(tokenizer, tmp_path / "resumed", config, max_steps=4, quiet=True)
    resumed = pretrain(tokenizer, tmp_path / "resumed", config, quiet=True)

    for ours, theirs in zip(at_once.parameters(), resumed.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)


def test_the_loss_falls(tokenizer, tmp_path):
    torch.manual_seed(TINY.seed)
    ids, weights = padded(next(batches(tokenizer, seed=3, tokens=2048))[1], 0.1)
    before = weighted_loss(new_model(tokenizer, TINY), ids, weights).item()

    model = pretrain(tokenizer, tmp_path / "run", replace(TINY, total_tokens=10_000), quiet=True)

    assert weighted_loss(model, ids, weights).item() < before - 0.1
