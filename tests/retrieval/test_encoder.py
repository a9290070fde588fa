"""One text alone takes a quicker way through the encoder, and comes out as it does among others."""

from pathlib import Path

import numpy as np
import pytest
from transformers import BertConfig, BertModel, RobertaConfig, RobertaModel

from retrieval.encoder import Encoder, default_encoder
from retrieval.fused import fused_layers

TEXTS = ["how to cook rice", "x", "a very long query " * 20, "Ünïcode 寿司", "kyoto in autumn please", ""]
TINY = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(default_encoder())


def test_a_text_alone_has_the_vector_that_it_has_among_others(encoder: Encoder) -> None:
    alone = np.concatenate([encoder.encode([text]) for text in TEXTS])

    together = encoder.encode(TEXTS)

    # bfloat16 keeps 8 bits: a rounding in each of six layers moves a unit vector of 384 by some thousandths
    assert np.min((alone * together).sum(1)) > 0.999
    assert np.linalg.norm(alone, axis=1) == pytest.approx(np.ones(len(TEXTS)), abs=1e-5)


def test_only_a_bert_as_it_was_published_has_fused_layers() -> None:
    assert fused_layers(BertModel(BertConfig(**TINY))) is not None
    assert fused_layers(BertModel(BertConfig(**TINY, hidden_act="relu"))) is None
    assert fused_layers(RobertaModel(RobertaConfig(**TINY))) is None


def test_any_other_encoder_goes_its_own_way(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    RobertaModel(RobertaConfig(**TINY, vocab_size=30522, type_vocab_size=1)).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(default_encoder()).save_pretrained(tmp_path)

    vectors = Encoder(tmp_path).encode(["how to cook rice"])

    assert vectors.shape == (1, TINY["hidden_size"])
    assert np.isfinite(vectors).all()
