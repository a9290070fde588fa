"""Every backbone takes every variant, learns, and is the same model after it was saved and loaded."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, BertConfig, BertModel, DistilBertConfig, DistilBertModel

from ctr.features import Variant, compose, layout_for, lists_of, tokenize
from ctr.model import ClickModel, from_scratch, from_start
from ctr.score import score_rows, to_tensors
from ctr.vocabulary import narrow, used_tokens, widen
from service.contract.errors import ConfigurationError

ROUNDING = 1e-6  # of logits below 1 in float32
TEXTS = [
    ["about rice", "rice recipe", "tea history near the sea", "rice near me"],
    ["", "cake price", "a very long query about the price of cake in kyoto and elsewhere", "tea"],
]


def rows(tokenizer: Any) -> tuple[Any, Any, Any]:
    """Lists, q_user's index and position of the six rows of two lists."""
    lists = lists_of([tokenize(tokenizer, texts) for texts in TEXTS])
    return lists, np.repeat([0, 4], 3), np.tile([1, 2, 3], 2)


@pytest.mark.parametrize("variant", Variant)
@pytest.mark.parametrize("backbone", ["bert", "roberta", "albert"])
def test_a_model_trains_a_step_and_reloads_to_the_same_scores(tmp_path, tokenizer, backbone, variant):
    torch.manual_seed(0)
    model = from_scratch(backbone, "tiny", tokenizer, variant=variant.value, positions=3)
    layout = layout_for(tokenizer, variant, 3)
    lists, first, position = rows(tokenizer)
    untrained = score_rows(model, lists, first, position, layout)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    logits = model(*to_tensors(compose(lists, first, position, layout), "cpu"))
    labels = torch.tensor([1.0, 0, 0, 1, 0, 0])
    torch.nn.functional.binary_cross_entropy_with_logits(logits, labels).backward()
    idle = [name for name, weight in model.named_parameters() if weight.grad is None]
    optimizer.step()
    model.save_pretrained(tmp_path)

    loaded = ClickModel.from_pretrained(tmp_path)

    trained = score_rows(model, lists, first, position, layout)
    assert idle == []
    assert np.abs(trained - untrained).max() > 1e-3
    assert np.abs(score_rows(loaded, lists, first, position, layout) - trained).max() < ROUNDING


def test_a_score_does_not_depend_on_what_else_is_in_the_batch(tokenizer):
    torch.manual_seed(0)
    model = from_scratch("bert", "small", tokenizer, variant="ctx", positions=3)
    layout = layout_for(tokenizer, Variant.CTX, 3)
    lists, first, position = rows(tokenizer)

    together = score_rows(model, lists, first, position, layout)
    alone = [score_rows(model, lists, first[[row]], position[[row]], layout)[0] for row in range(6)]
    many = np.random.default_rng(0).integers(0, 6, 1_000)
    crowded = score_rows(model, lists, first[many], position[many], layout)

    assert np.abs(together - alone).max() <= 1e-5
    assert np.abs(together[many] - crowded).max() <= 1e-5


def test_ctx_sees_the_order_of_what_stands_before_and_plain_does_not(tokenizer):
    torch.manual_seed(0)
    texts = [["rice", "tea", "cake", "soup"], ["rice", "cake", "tea", "soup"]]
    lists = lists_of([tokenize(tokenizer, each) for each in texts])
    first, position = np.array([0, 4]), np.array([3, 3])

    scores = {
        variant: score_rows(
            from_scratch("bert", "tiny", tokenizer, variant=variant.value, positions=3),
            lists,
            first,
            position,
            layout_for(tokenizer, variant, 3),
        )
        for variant in Variant
    }

    differs = {variant: bool(abs(one - other) > ROUNDING) for variant, (one, other) in scores.items()}
    assert differs == {Variant.CTX: True, Variant.PLAIN: False, Variant.PID: False}


def test_the_domain_tells_a_query_from_the_one_before_it(tokenizer):
    torch.manual_seed(0)
    model = from_scratch("bert", "tiny", tokenizer, variant="ctx", positions=3)
    layout = layout_for(tokenizer, Variant.CTX, 3)
    texts = [["rice", "tea cake", "soup", "bread"], ["rice", "tea", "cake soup", "bread"]]  # the same tokens
    lists = lists_of([tokenize(tokenizer, each) for each in texts])

    one, other = score_rows(model, lists, np.array([0, 4]), np.array([3, 3]), layout)

    assert abs(one - other) > ROUNDING


def saved(model: Any, place: Path) -> str:
    model.save_pretrained(place)
    return str(place)


def test_a_trained_encoder_keeps_its_weights(tmp_path, tokenizer):
    torch.manual_seed(0)
    shape = BertConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    start = saved(BertModel(shape), tmp_path)

    model = from_start(start, tokenizer, variant="ctx", positions=3)

    before, after = AutoModel.from_pretrained(start).state_dict(), model.backbone.state_dict()
    assert len(after) > 10
    assert all(torch.equal(before[name], tensor) for name, tensor in after.items())


def test_an_encoder_without_segments_gets_its_own(tmp_path, tokenizer):
    torch.manual_seed(0)
    shape = DistilBertConfig(vocab_size=len(tokenizer), dim=32, n_layers=1, n_heads=2, hidden_dim=64)
    model = from_start(saved(DistilBertModel(shape), tmp_path), tokenizer, variant="ctx", positions=3)
    lists, first, position = rows(tokenizer)

    scores = score_rows(model, lists, first, position, layout_for(tokenizer, Variant.CTX, 3))

    assert model.segment_embeddings.weight.shape == (2, 32)
    assert len(np.unique(scores)) == 6


def test_an_encoder_that_reads_too_little_is_refused(tmp_path, tokenizer):
    shape = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=128
    )  # fmt: skip

    with pytest.raises(ConfigurationError, match="reads 128 tokens"):
        from_start(saved(BertModel(shape), tmp_path), tokenizer, variant="ctx", positions=3)


def test_an_encoder_of_another_vocabulary_is_refused(tmp_path, tokenizer):
    shape = BertConfig(vocab_size=100, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)

    with pytest.raises(ConfigurationError, match="do not belong together"):
        from_start(saved(BertModel(shape), tmp_path), tokenizer, variant="ctx", positions=3)


@pytest.mark.parametrize(("backbone", "size"), [("gpt", "tiny"), ("bert", "huge")])
def test_an_unknown_backbone_or_size_is_refused(tokenizer, backbone, size):
    with pytest.raises(ConfigurationError, match="Backbones are bert, roberta, albert"):
        from_scratch(backbone, size, tokenizer, variant="ctx", positions=3)


def test_an_encoder_that_is_not_there_is_refused(tmp_path, tokenizer):
    with pytest.raises(ConfigurationError, match="cannot be loaded"):
        from_start(str(tmp_path / "nothing"), tokenizer, variant="ctx", positions=3)


def test_training_the_tokens_that_occur_is_training_all(tokenizer):
    lists, first, position = rows(tokenizer)
    layout = layout_for(tokenizer, Variant.CTX, 3)
    used = used_tokens([lists.tokens], layout, len(tokenizer))
    labels = torch.tensor([1.0, 0, 0, 1, 0, 0])
    weights = []
    for is_narrow in (False, True):
        torch.manual_seed(0)
        model = from_scratch("albert", "tiny", tokenizer, variant="ctx", positions=3)
        if is_narrow:
            narrow(model, used)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(3):
            logits = model(*to_tensors(compose(lists, first, position, layout), "cpu"))
            torch.nn.functional.binary_cross_entropy_with_logits(logits, labels).backward()
            optimizer.step()
            optimizer.zero_grad()
        if is_narrow:
            widen(model)
        weights.append(model.state_dict())

    assert len(used) < 50
    assert weights[0].keys() == weights[1].keys()
    # Adam divides by the size of the gradient, so rounding of those near 0 may move a weight by a fraction of a step.
    assert max(float((weights[0][name] - weights[1][name]).abs().max()) for name in weights[0]) < 1e-3
