"""Words are found in the ids that were sampled, and every token of a word has its class, whatever the tokenizer."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from service.contract.tasks import get_task
from service.contract.token_bytes import decoded
from service.contract.tokenizer import PromptTokenizer, TextFormat
from trainer.words import read_response, token_classes

SAID = ["rice 米 cooker", "how to cook rice", "don't wash rice 🍚!", "1. reis-kocher"]


def _byte_level():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["</s>", "<sep>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        SAID * 20, trainers.BpeTrainer(vocab_size=330, special_tokens=specials, initial_alphabet=alphabet)
    )
    return tokenizer


def _byte_fallback():
    pieces = [("<unk>", 0.0), ("</s>", 0.0), ("<sep>", 0.0), *((f"<0x{byte:02X}>", -9.0) for byte in range(256))]
    words = {word for text in SAID for word in text.split()}
    pieces += [(f"▁{word}", -2.0) for word in sorted(words)] + [(each, -5.0) for each in "▁abcdefghijklmnopqrstuvwxyz"]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["</s>", "<sep>"])
    return tokenizer


def _word_piece():
    words = sorted({word for text in SAID for word in text.replace("'", " ").replace("-", " ").split()})
    vocabulary = ["[UNK]", "</s>", "<sep>", *words, "##s", "##er", "'", "-", "!"]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(["</s>", "<sep>"])
    return tokenizer


KINDS = {"byte level": _byte_level, "byte fallback": _byte_fallback, "word piece": _word_piece}


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request, tmp_path_factory):
    return _saved(KINDS[request.param](), tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module", params=["byte level", "byte fallback"])
def of_bytes(request, tmp_path_factory):
    return _saved(KINDS[request.param](), tmp_path_factory.mktemp("tokenizer"))


def _saved(tokenizer, directory: Path):
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    return PromptTokenizer(directory, TextFormat(separator="<sep>", separator_is_token=True))


def _read(tokenizer, text, n=3):
    return read_response(tokenizer.encode_response(text), get_task("predict"), tokenizer, n=n)


def _covered(response, classes, tokenizer):
    """The text of the tokens that have a class, query by query."""
    ids = [token_id for token_id, kind in zip(response.ids, classes, strict=True) if kind]
    return b"".join(tokenizer.token_bytes(ids)).decode(errors="replace").split()


def test_words_are_those_of_the_queries_and_none_of_the_separators(tokenizer):
    response = _read(tokenizer, "how to cook rice<sep>rice cooker")

    assert [(word.text, word.query) for word in response.words] == [
        *((word, 0) for word in ("how", "to", "cook", "rice")),
        *((word, 1) for word in ("rice", "cooker")),
    ]
    assert response.problem is None


def test_every_token_of_a_word_has_its_class_and_no_other_token_has_one(tokenizer):
    response = _read(tokenizer, "how to cook rice<sep>rice cooker")
    classes = token_classes(response, [True, False, True, True, False, True])

    separator, end = tokenizer.separator_ids[0], tokenizer.eos_ids[0]
    for token_id, kind in zip(response.ids, classes, strict=True):
        assert (kind == 0) == (token_id in (separator, end))
    at = response.ids.index(separator)
    assert set(classes[:at]) == {1, 2}
    assert [kind for kind in classes[at:] if kind] == sorted(kind for kind in classes[at:] if kind)  # bad, then good


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 300), max_size=30))
def test_bytes_of_random_ids_are_what_the_decoder_says(of_bytes, ids):
    known = [token_id % of_bytes._specials.get_vocab_size() for token_id in ids]

    text, ends = decoded(b"".join(of_bytes.token_bytes(known)))

    said = of_bytes.decode(known)
    if "\ufffd" not in text:  # how much of a broken character becomes one U+FFFD, decoders are not agreed on
        assert text.lstrip(" ") == said.lstrip(" ")
    assert ("\ufffd" in text) == ("\ufffd" in said)
    assert len(ends) == len(text)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 300), max_size=30), st.randoms())
def test_a_word_of_random_ids_is_covered_by_tokens_of_its_class(of_bytes, ids, rng):
    known = [token_id % of_bytes._specials.get_vocab_size() for token_id in ids]
    response = read_response(known, get_task("predict"), of_bytes, n=10)
    relevant = [rng.random() < 0.5 for _ in response.words]

    classes = token_classes(response, relevant)

    content = b"".join(of_bytes.token_bytes(known))
    assert len(classes) == len(known)
    for word, good in zip(response.words, relevant, strict=True):
        assert content[word.begin : word.end].decode(errors="replace") == word.text
        own = [k for k, (begin, end) in enumerate(response.spans) if word.begin <= begin < end <= word.end]
        assert {classes[k] for k in own} <= {2 if good else 1}
    inside = [any(b < word.end and word.begin < e for word in response.words) for b, e in response.spans]
    assert [bool(kind) for kind in classes] == [
        here and b < e for here, (b, e) in zip(inside, response.spans, strict=True)
    ]


@settings(deadline=None)
@given(st.lists(st.text(st.sampled_from("rice é米🍚\u0301'- "), max_size=12), min_size=1, max_size=4))
def test_words_stand_where_they_are_written_in_any_language(of_bytes, queries):
    response = _read(of_bytes, "<sep>".join(queries), n=10)
    classes = token_classes(response, [True] * len(response.words))

    assert "".join(_covered(response, classes, of_bytes)).count("🍚") <= "".join(queries).count("🍚")
    content = b"".join(of_bytes.token_bytes(response.ids))
    for word in response.words:
        assert content[word.begin : word.end].decode() == word.text
        assert word.text in response.queries[word.query]


def test_a_repeated_query_and_one_too_many_have_no_words(tokenizer):
    response = _read(tokenizer, "rice cooker<sep>rice cooker<sep>how to cook rice<sep>cooker", n=2)

    assert [word.query for word in response.words] == [0, 0, 1, 1, 1, 1]


def test_a_number_before_a_query_is_no_word_of_it(of_bytes):
    response = _read(of_bytes, "1. rice cooker\n2. cook rice")

    assert [word.text for word in response.words] == ["rice", "cooker", "cook", "rice"]


@pytest.mark.parametrize("text", ["", "!!", "<sep><sep>"])
def test_a_response_that_says_nothing_has_a_problem_and_no_words(of_bytes, text):
    response = _read(of_bytes, text)

    assert response.words == ()
    assert response.problem
    assert token_classes(response, []) == [0] * len(response.ids)


def test_a_response_that_was_cut_has_a_problem(of_bytes):
    ids = of_bytes.encode_response("rice cooker")[:-1]

    assert read_response(ids, get_task("predict"), of_bytes, n=3).problem == "it was cut before its end"


def test_a_judgement_too_few_is_refused(of_bytes):
    with pytest.raises(ValueError, match="1 judgements for 2 words"):
        token_classes(_read(of_bytes, "rice cooker"), [True])
