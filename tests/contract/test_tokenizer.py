"""A policy's tokenizer: where tokens end, what frames a prompt, and what is refused."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from service.contract.errors import ArtifactError
from service.contract.tokenizer import PromptTokenizer, TextFormat
from tests.fakes import CHAT_TEMPLATE, chat_tokenizer, own_tokenizer
from tests.tiny_models import BOS_ID, EOS_ID, SEP_ID, make_tokenizer

SEPARATOR = TextFormat(separator="<sep>", separator_is_token=True)


def test_our_separator_and_our_end_are_one_token_each() -> None:
    tokenizer = own_tokenizer()

    ids = tokenizer.encode_response("rice<sep>beans")

    assert ids == [
        *tokenizer.encode("rice"),
        *tokenizer.separator_ids,
        *tokenizer.encode("beans"),
        *tokenizer.eos_ids[:1],
    ]
    assert len(tokenizer.separator_ids) == len(tokenizer.eos_ids) == 1
    assert tokenizer.decode(ids) == " rice<sep> beans</s>"


@pytest.mark.parametrize("said", ["brown rice", " Brown  Rice?", "brown rice."])
def test_what_was_said_may_not_be_said_again_in_any_spelling_of_its(said: str) -> None:
    tokenizer = own_tokenizer()
    distinct = tokenizer.distinct([said])
    assert distinct is not None
    written = tokenizer.encode_response("rice<sep>brown rice")[:-1]

    assert distinct.repeats(written)
    assert not distinct.repeats(written[:-1])
    assert not distinct.repeats([*written, *tokenizer.encode("cooker")])


def test_what_stands_above_in_the_list_may_not_be_said_again() -> None:
    tokenizer = own_tokenizer()
    distinct = tokenizer.distinct([])
    assert distinct is not None

    assert distinct.repeats(tokenizer.encode_response("rice<sep>beans<sep>rice")[:-1])
    assert not distinct.repeats(tokenizer.encode_response("rice<sep>beans")[:-1])
    assert not distinct.repeats([*tokenizer.encode("rice"), *tokenizer.separator_ids])
    assert not distinct.repeats([])


def test_lists_with_a_written_separator_are_not_watched() -> None:
    assert chat_tokenizer().distinct(["rice"]) is None


@settings(deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), max_size=5))
def test_lines_together_are_encoded_as_each_alone(lines: list[str]) -> None:
    tokenizer = own_tokenizer()

    assert tokenizer.encode_lines(lines) == [tokenizer.encode(line) for line in lines]


@pytest.mark.parametrize("text", ["<sep>", "</s>", "<s>", "<pad>", "a<sep>b</s>"])
def test_special_tokens_that_are_typed_are_spelled_out(text: str) -> None:
    assert not {0, BOS_ID, EOS_ID, SEP_ID} & set(own_tokenizer().encode(text))


@settings(deadline=None)
@given(st.text(st.sampled_from("rice é米🍚\u0301 "), max_size=20))
def test_tokens_end_where_their_characters_end(text: str) -> None:
    tokenizer = own_tokenizer()
    ids = tuple(tokenizer.encode(text))

    ends = tokenizer.token_ends(ids)

    assert ends == slow_ends(tokenizer, ids)


def test_tokens_that_share_a_character_end_with_it() -> None:
    tokenizer = own_tokenizer()
    ids = tuple(tokenizer.encode("a🍚b"))  # " a", four bytes of one character, "b" which may have joined nothing

    ends = tokenizer.token_ends(ids)

    assert tokenizer.decode(ids) == " a🍚b"
    assert ends == [1, 2, 3, 3, 3, 3, 4] or ends == [2, 3, 3, 3, 3, 4]


def test_a_character_that_is_cut_off_ends_with_the_text() -> None:
    tokenizer = own_tokenizer()
    ids = tuple(tokenizer.encode("a🍚"))[:-1]

    ends = tokenizer.token_ends(ids)

    assert ends[-1] == len(tokenizer.decode(ids))
    assert ends == sorted(ends)


def test_tokens_of_a_byte_fallback_tokenizer_end_where_their_characters_end(tmp_path: Path) -> None:
    #      0       1..3                            4
    words = ["▁rice", "<0xE7>", "<0xB1>", "<0xB3>", "▁pot"]
    tokenizer = Tokenizer(models.BPE({word: number for number, word in enumerate(words)}, [], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.save(str(tmp_path / "tokenizer.json"))

    ends = PromptTokenizer(tmp_path, TextFormat()).token_ends((0, 1, 2, 3, 4))

    assert ends == [4, 5, 5, 5, 9]  # "rice米 pot"


def test_no_tokens_have_no_ends() -> None:
    assert own_tokenizer().token_ends(()) == []


def test_a_prompt_begins_with_the_begin_token(tmp_path: Path) -> None:
    tokenizer = PromptTokenizer(make_tokenizer(tmp_path), SEPARATOR)

    assert (tokenizer.start_ids, tokenizer.end_ids) == ((BOS_ID,), ())


def test_a_chat_model_gets_the_two_halves_of_its_template() -> None:
    tokenizer = chat_tokenizer()

    assert tokenizer.decode(tokenizer.start_ids) == "<|user|>\n"
    assert tokenizer.decode(tokenizer.end_ids) == "\n<|assistant|>\n"


def test_the_template_may_stand_in_its_own_file_or_in_a_list(tmp_path: Path) -> None:
    in_file, in_list = make_tokenizer(tmp_path / "file"), make_tokenizer(tmp_path / "list")
    (in_file / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    named = [{"name": "tools", "template": "x"}, {"name": "default", "template": CHAT_TEMPLATE}]
    (in_list / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))

    halves = [PromptTokenizer(d, TextFormat(chat=True)).end_ids for d in (in_file, in_list)]

    assert halves == [chat_tokenizer().end_ids] * 2


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        (None, "has no chat template"),
        ("{% for %}", "cannot be rendered"),
        ("{{ raise_exception('no') }}", "cannot be rendered"),
        ("hello", "leaves the user's message out"),
    ],
)
def test_a_chat_template_that_cannot_serve_is_refused(tmp_path: Path, template: str | None, sentence: str) -> None:
    directory = make_tokenizer(tmp_path)
    (directory / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))

    with pytest.raises(ArtifactError, match=sentence):
        PromptTokenizer(directory, TextFormat(chat=True))


def test_every_end_of_sequence_token_is_known_once(tmp_path: Path) -> None:
    directory = make_tokenizer(tmp_path)
    (directory / "config.json").write_text(json.dumps({"eos_token_id": EOS_ID}))
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [EOS_ID, 7]}))

    assert PromptTokenizer(directory, TextFormat()).eos_ids == (EOS_ID, 7)


def test_a_directory_without_a_tokenizer_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no tokenizer\.json.*AutoTokenizer"):
        PromptTokenizer(tmp_path, TextFormat())


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "generation_config.json"])
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    directory = make_tokenizer(tmp_path)
    (directory / name).write_text('{"half": ')

    with pytest.raises(ArtifactError, match=name):
        PromptTokenizer(directory, TextFormat())


def test_a_separator_that_should_be_one_token_and_is_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"'<next>' is \d tokens"):
        PromptTokenizer(make_tokenizer(tmp_path), TextFormat(separator="<next>", separator_is_token=True))


def slow_ends(tokenizer: PromptTokenizer, ids: tuple[int, ...]) -> list[int]:
    """Each token ends with the first prefix, from it on, that the decoded text begins with."""
    text = tokenizer.decode(ids)
    prefixes = [tokenizer.decode(ids[: k + 1]) for k in range(len(ids))]
    return [next(len(prefix) for prefix in prefixes[k:] if text.startswith(prefix)) for k in range(len(ids))]
