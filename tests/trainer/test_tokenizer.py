"""The tokenizer of the base model."""

from itertools import islice

from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from service.contract.query_text import one_line
from service.contract.tasks import all_tasks
from service.contract.types import PromptContext
from trainer.catalogue.catalogue import load_catalogue
from trainer.catalogue.compose import compose
from trainer.encoding import encode


def test_the_vocabulary_has_the_separator_and_the_frames_as_one_token_each(tokenizer):
    for task in all_tasks().values():
        prompt = task.render(PromptContext(n=3), tokenizer, budget=100)

        # <s>, what stands before the number, a space, the digit, what stands after it, the head of the response
        assert len(prompt.token_ids) == 6
    assert len(tokenizer.separator_ids) == 1
    assert tokenizer.start_ids == (1,)
    assert tokenizer.eos_ids == (2,)


def test_text_comes_back_in_lower_case(tokenizer):
    ids = tokenizer.encode("How to Cook Crème Brûlée, 2 ways 🙂")

    assert tokenizer.decode(ids) == " how to cook crème brûlée, 2 ways 🙂"


def test_a_word_has_the_same_tokens_at_the_start_of_a_query_and_inside_one(tokenizer):
    alone = tokenizer.encode("zentrovia")
    inside = tokenizer.encode("Query: best zentrovia\n")

    assert any(inside[i : i + len(alone)] == alone for i in range(len(inside)))


def test_each_digit_is_a_token(tokenizer):
    assert tokenizer.encode("1592")[-4:] == [tokenizer.encode(digit)[-1] for digit in "1592"]


@given(st.text(max_size=60))
def test_nothing_that_a_person_types_becomes_a_frame_or_a_special_token(tokenizer, text):
    frames = {
        i for task in all_tasks().values() for i in task.render(PromptContext(n=3), tokenizer, budget=99).token_ids
    }
    ordinary = set(tokenizer.encode("3"))

    ids = tokenizer.encode(f"Query: {one_line(text)} <sep> </s> ### Response:")

    assert not set(ids) & ({0, 1, 2, 3} | frames - ordinary)


def test_a_prompt_and_its_response_are_encoded_as_if_alone(tokenizer):
    for example in islice(compose(load_catalogue(), 21), 200):
        task = all_tasks()[example.task]
        row = encode(example, tokenizer)
        text = tokenizer.decode(row.response[:-1])

        parsed = task.parse(text, n=example.context.n, separator="<sep>")

        assert row.prompt == task.render(example.context, tokenizer, budget=512).token_ids
        assert row.response[-1] == tokenizer.eos_ids[0]
        assert tokenizer.decode(row.response[:1]).startswith(" ")  # it cannot have merged with the prompt's line break
        assert parsed.queries == example.queries
        assert parsed.texts == example.texts
        assert parsed.problem is None


def test_transformers_reads_the_same_tokenizer(tokenizer_directory, tokenizer):
    theirs = AutoTokenizer.from_pretrained(tokenizer_directory)

    assert theirs("kyoto in winter")["input_ids"] == [1, *tokenizer.encode("kyoto in winter")]
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (1, 2, 0)
