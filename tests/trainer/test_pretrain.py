"""Pre-training of the base model, on a model of one layer."""

from dataclasses import replace
from itertools import islice

import pytest
import torch

from tests.trainer.conftest import TINY
from trainer.batches import batches, padded
from trainer.encoding import Encoded
from trainer.pretrain import pretrain


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


def test_a_run_that_was_interrupted_ends_with_the_same_weights(tokenizer, tmp_path):
    half = replace(TINY, total_tokens=2_500, save_every_s=0.0)
    full = replace(half, total_tokens=5_000)

    at_once = pretrain(tokenizer, tmp_path / "at_once", full, quiet=True)
    pretrain(tokenizer, tmp_path / "resumed", replace(full, max_minutes=1e-9), quiet=True)
    _stop_after(tokenizer, tmp_path / "resumed", full, steps=3)
    resumed = pretrain(tokenizer, tmp_path / "resumed", full, quiet=True)

    for ours, theirs in zip(at_once.parameters(), resumed.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)


def test_the_loss_falls(tokenizer, tmp_path):
    from trainer.pretrain import _loss, new_model

    torch.manual_seed(TINY.seed)
    ids, weights = padded(next(batches(tokenizer, seed=3, tokens=2048))[1], 0.1)
    before = _loss(new_model(tokenizer, TINY), ids, weights).item()

    model = pretrain(tokenizer, tmp_path / "run", replace(TINY, total_tokens=30_000), quiet=True)

    assert _loss(model, ids, weights).item() < before - 0.5


def _stop_after(tokenizer, work, config, *, steps):
    """Interrupt a run as Ctrl-C would, after `steps` steps were saved."""
    from trainer import pretrain as module

    saved = []
    original = module._save_state

    def save_and_count(*args):
        original(*args)
        saved.append(1)
        if len(saved) == steps:
            raise KeyboardInterrupt

    module._save_state = save_and_count
    try:
        with pytest.raises(KeyboardInterrupt):
            pretrain(tokenizer, work, config, quiet=True)
    finally:
        module._save_state = original
