"""Whatever is typed becomes one visible line, and two ways to type a query are one query."""

import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.contract.query_text import match_key, one_line

ANY_TEXT = st.text(st.characters())  # lone surrogates too


@given(ANY_TEXT)
def test_a_line_has_no_breaks_no_unseen_characters_and_no_double_spaces(text: str) -> None:
    line = one_line(text)

    assert line == line.strip()
    assert "  " not in line
    assert not {unicodedata.category(c) for c in line} & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


@given(ANY_TEXT)
def test_making_one_line_twice_changes_nothing(text: str) -> None:
    assert one_line(one_line(text)) == one_line(text)


@given(ANY_TEXT)
def test_a_match_key_belongs_to_the_line_and_not_to_how_it_was_typed(text: str) -> None:
    assert match_key(text) == match_key(one_line(text)) == match_key(f"  {text}\u200b")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("How to cook rice?", "how to cook rice"),
        ("rice\u200b", " rice "),
        ("ＲＩＣＥ", "rice"),
        ("Straße", "STRASSE"),
        ("cafe\u0301", "café"),
        ("rice ...", "rice"),
        ("rice\ncooker", "rice cooker"),
    ],
)
def test_two_ways_to_type_a_query_are_one(one: str, other: str) -> None:
    assert match_key(one) == match_key(other)


@pytest.mark.parametrize(("one", "other"), [("c++", "c"), ("c#", "c"), ("5 km", "5 m"), ("café", "cafe")])
def test_different_queries_stay_different(one: str, other: str) -> None:
    assert match_key(one) != match_key(other)


@pytest.mark.parametrize("text", ["\ud800 rice", "rice\udfff", "\x00rice\x1b[31m", "\u202erice", "\ufeffrice\u2028"])
def test_what_no_database_or_page_can_show_is_gone(text: str) -> None:
    line = one_line(text)

    line.encode()
    assert "rice" in line
    assert line.isprintable()


@pytest.mark.parametrize(
    "text", ["word " * 20_000, "\u200b" * 100_000, "😀" * 100_000, "e\u0301" * 50_000, " " * 100_000]
)
def test_a_hundred_thousand_characters_take_milliseconds(text: str) -> None:
    started = time.process_time()

    one_line(text)

    assert time.process_time() - started < 0.05
