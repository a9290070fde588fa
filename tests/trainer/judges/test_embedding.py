"""Vectors are unit, remembered and the same as alone; thresholds decide what they should."""

import threading

import numpy as np
import pytest

from service.contract.errors import ArtifactError
from service.contract.types import PromptContext
from trainer.judges.embedding import Embedder, EmbeddingJudge, Thresholds

NOTHING = PromptContext(n=2)
TOLERANCE = 1e-5  # float32; a batch is padded to its longest text


class Fixed:
    """Vectors that a test chooses; an unknown text stands at a right angle to all of them."""

    def __init__(self, **angles: float) -> None:
        self.angles = {name.replace("_", " "): angle for name, angle in angles.items()}
        self.calls = 0

    def vectors(self, texts):
        self.calls += 1
        return np.array([self._vector(text) for text in texts], np.float32).reshape(len(texts), 3)

    def _vector(self, text):
        if text not in self.angles:
            return [0.0, 0.0, 1.0]
        angle = np.radians(self.angles[text])
        return [np.cos(angle), np.sin(angle), 0.0]


class Counting:
    """An encoder that remembers what it was given."""

    def __init__(self, encoder) -> None:
        self.encoder, self.encoded = encoder, []

    def get_embedding_dimension(self):
        return self.encoder.get_embedding_dimension()

    def encode(self, texts, **options):
        self.encoded.append(texts)
        return self.encoder.encode(texts, **options)


def test_every_vector_has_length_one_and_every_text_its_own(embedder):
    vectors = embedder.vectors(["rice", "weather in oslo", "rice", ""])

    assert vectors.shape == (4, 384)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(4), abs=TOLERANCE)
    assert np.array_equal(vectors[0], vectors[2])
    assert vectors[0] @ vectors[1] < 0.5


def test_no_text_gives_no_vector(embedder):
    assert embedder.vectors([]).shape == (0, 384)


def test_a_large_batch_gives_the_vectors_of_each_text_alone(encoder):
    texts = [f"how many {thing} does a house of {n} floors need" for n in range(20) for thing in ("doors", "roofs")]

    together = Embedder(encoder, threads=2).vectors(texts)

    one_by_one = Embedder(encoder, cached=0)
    alone = np.concatenate([one_by_one.vectors([text]) for text in texts[:5]])
    assert together[:5] == pytest.approx(alone, abs=TOLERANCE)


def test_what_was_embedded_is_not_embedded_again(encoder):
    counting = Counting(encoder)
    embedder = Embedder(counting, cached=2)

    embedder.vectors(["a", "b"])
    embedder.vectors(["b", "a", "a"])
    embedder.vectors(["c"])  # pushes b out, which was used before a
    embedder.vectors(["a", "b"])

    assert counting.encoded == [["a", "b"], ["c"], ["b"]]


def test_a_batch_larger_than_the_cache_is_whole(encoder):
    small = Embedder(encoder, cached=2)

    assert len(np.unique(small.vectors(["rice", "oslo", "poem", "clock"]), axis=0)) == 4


def test_threads_share_an_embedder(embedder):
    texts = [f"text {n}" for n in range(12)]
    expected, found = embedder.vectors(texts), {}
    threads = [threading.Thread(target=lambda k=k: found.update({k: embedder.vectors(texts[k:])})) for k in range(6)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert all(np.array_equal(found[k], expected[k:]) for k in range(6))


def test_a_model_that_is_not_here_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match="sentence encoder"):
        Embedder(tmp_path)


def test_two_queries_overlap_from_their_threshold_on():
    # cos 36.8 deg = .8007, cos 37 deg = .7986; the words "a" and "b" that differ stand at 0 and 60 deg: cos = .5
    near = EmbeddingJudge(Fixed(x_a=0, x_b=36.8, a=0, b=60))
    far = EmbeddingJudge(Fixed(x_a=0, x_b=37.0, a=0, b=60))

    assert near.overlaps(NOTHING, [("x a", "x b")]) == [True]
    assert far.overlaps(NOTHING, [("x a", "x b")]) == [False]


def test_near_texts_do_not_overlap_where_what_they_do_not_share_is_far_apart():
    # cos 67 deg = .3907, cos 66 deg = .4067
    assert EmbeddingJudge(Fixed(x_a=0, x_b=1, a=0, b=67)).overlaps(NOTHING, [("x a", "x b")]) == [False]
    assert EmbeddingJudge(Fixed(x_a=0, x_b=1, a=0, b=66)).overlaps(NOTHING, [("x a", "x b")]) == [True]


def test_a_query_that_only_adds_words_is_new_unless_it_is_nearly_the_same():
    # cos 18 deg = .9511, cos 19 deg = .9455
    context = PromptContext(n=1, query="x")

    assert EmbeddingJudge(Fixed(x=0, x_more=19)).overlaps(context, [("x more",)]) == [False]
    assert EmbeddingJudge(Fixed(x=0, x_more=18)).overlaps(context, [("x more",)]) == [True]


def test_each_sentence_of_an_answer_is_looked_at_by_itself():
    # cos 45 deg = .7071, cos 46 deg = .6947; the query has no word of its own
    context = PromptContext(n=1, answer="y is old. x is red and round! z")

    assert EmbeddingJudge(Fixed(x_red=0, x_is_red_and_round=45)).overlaps(context, [("x red",)]) == [True]
    assert EmbeddingJudge(Fixed(x_red=0, x_is_red_and_round=46)).overlaps(context, [("x red",)]) == [False]


def test_thresholds_can_be_chosen():
    strict = EmbeddingJudge(Fixed(x_a=0, x_b=37.0, a=0, b=60), Thresholds(whole=0.7))

    assert strict.overlaps(NOTHING, [("x a", "x b")]) == [True]


def test_all_prompts_are_embedded_in_two_calls():
    similar = Fixed()

    EmbeddingJudge(similar).overlaps_many([(NOTHING, [(f"a {n}", f"b {n}")]) for n in range(50)])

    assert similar.calls == 2
