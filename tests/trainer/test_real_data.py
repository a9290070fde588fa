"""Real queries are read by licence, and only where they make sense alone."""

import json

import pytest

from service.contract.errors import ConfigurationError
from trainer.real_data import read_real_examples, stands_alone


def _row(licence: str, next_query: str) -> str:
    return json.dumps({"licence": licence, "query": "What is a GPU?", "answer": "A chip.", "next_query": next_query})


def test_only_rows_that_may_train_shipped_weights_are_read(tmp_path):
    licences = ["apache-2.0", "mit", "research-only", "not-stated", "cc-by-nc-4.0"]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(_row(licence, f"best graphics card {n}") for n, licence in enumerate(licences)))

    examples = read_real_examples(path)

    assert [example.queries for example in examples] == [("best graphics card 0",), ("best graphics card 1",)]
    assert examples[0].context.query == "what is a gpu?"
    assert examples[0].context.n == 1


@pytest.mark.parametrize(
    ("text", "alone"),
    [
        ("how long do graphics cards last", True),
        ("How deadly is it?", False),
        ("Thanks, tell me more", False),
        ("Wow. What are common treatments", False),
        ("prices", False),
    ],
)
def test_a_target_with_a_loose_pronoun_is_left_out(text, alone):
    assert stands_alone(text) is alone


def test_a_missing_file_says_what_to_do(tmp_path):
    with pytest.raises(ConfigurationError, match="--real-data"):
        read_real_examples(tmp_path / "nothing.jsonl")
