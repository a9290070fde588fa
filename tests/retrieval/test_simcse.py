"""Training the encoder brings a query and what follows it together."""

from pathlib import Path

import pytest
from transformers import BertConfig, BertModel, BertTokenizerFast

from retrieval.encoder import Encoder, default_encoder
from retrieval.simcse import SimcseConfig, train_encoder
from service.contract.errors import ArtifactError

TOPICS = [f"{kind} {thing}" for kind in ("cheap", "red", "old", "best") for thing in ("car", "boat", "house", "phone")]
PAIRS = [(f"buy {topic}", f"{topic} price") for topic in TOPICS]


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two small layers with random weights: the least that training can start from."""
    directory = tmp_path_factory.mktemp("bert")
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *sorted({w for pair in PAIRS for t in pair for w in t.split()}),
    ]
    (directory / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(str(directory / "vocab.txt")).save_pretrained(directory)
    shape = BertConfig(
        vocab_size=len(words), hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    BertModel(shape).save_pretrained(directory)
    return directory


def closeness(encoder: Encoder) -> float:
    """How much nearer the true next query is than the others, on average."""
    queries, after = encoder.encode([q for q, _ in PAIRS]), encoder.encode([a for _, a in PAIRS])
    similarity = queries @ after.T
    return float(similarity.diagonal().mean() - similarity.mean())


def test_pairs_come_together_whatever_bert_it_starts_from(tiny_bert: Path, tmp_path: Path) -> None:
    before = closeness(Encoder(tiny_bert))
    config = SimcseConfig(steps=40, batch_size=8, learning_rate=2e-3, fewest_pairs=1)

    is_trained = train_encoder(tiny_bert, [q for q, _ in PAIRS], PAIRS, tmp_path / "trained", config, quiet=True)

    assert is_trained
    assert closeness(Encoder(tmp_path / "trained")) > before + 0.1
    assert (tmp_path / "trained" / "metrics.jsonl").read_text().count("loss") >= 1


def test_with_too_few_pairs_nothing_is_trained_and_nothing_saved(tiny_bert: Path, tmp_path: Path) -> None:
    config = SimcseConfig(steps=5, fewest_pairs=1000)

    is_trained = train_encoder(tiny_bert, ["a"], PAIRS, tmp_path / "none", config, quiet=True)

    assert not is_trained
    assert not (tmp_path / "none").exists()


def test_the_encoder_that_is_installed_knows_what_is_alike() -> None:
    vectors = Encoder(default_encoder()).encode(["how to cook rice", "cooking rice", "weather tomorrow"])

    assert vectors.shape == (3, 384)
    assert vectors[0] @ vectors[1] > 0.8
    assert vectors[0] @ vectors[2] < 0.3


def test_an_encoder_that_is_not_there_is_an_error_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="hub id"):
        Encoder(tmp_path / "nothing")
