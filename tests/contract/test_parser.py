"""The parser takes whatever a language model writes, never raises, and says why when it finds no query."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.contract.prompt import MAX_QUERY_CHARS
from service.contract.query_text import match_key, one_line
from service.contract.tasks import all_tasks, get_task
from service.contract.tokenizer import TextFormat
from service.contract.types import ParsedList
from tests.fakes import own_tokenizer

OURS, LITERAL = TextFormat(separator="<sep>", separator_is_token=True), TextFormat()
NASTY = [
    "", " ", "\n", "\n\n\n", "<sep>", "<sep><sep><sep>", " <SEP> ", "\u200b", "\ufeff<sep>\u202e", "\x00", "\ud800",
    "?", "...<sep>!!<sep>", "-", "- \n- \n", "1.", "1.\n2.\n3.", "()", "\"\"", "''<sep>\"\"", "```", "```json\n```",
    "[]", "{}", "[\"", "[\"\"]", "[\"a\", \"b", '["rice", "rice", "Rice?"]', '[\n "rice",\n "beans"\n]', '["a\\"b"]',
    '```json\n["rice", "beans"]\n```', '{"queries": ["rice"]}', "[" * 2000, '["' + '\\"' * 3000, "\"" * 3000,
    "rice", "rice<sep>", "<sep>rice", "rice<sep>rice<sep>RICE?<sep>rice.", "rice<se", "rice <SEP beans", "ri",
    "1. rice\n2. beans\n3. peas", "1) rice 2) beans", "(1) rice\n(2) beans", "- rice\n* beans\n• peas", "1. 1. rice",
    "**rice**\n**beans**", "“rice”<sep>‘beans’", "Here are 3 queries:\n1. rice\n2. beans", "Sure!\n\nrice <SEP> beans",
    "question: what?\n", "question: what?", "question:", "question: a\nquestion: b\nrice<sep>beans",
    "guide: g\nrice<sep>beans", "suffix: s\nprefix: p\nguide: g\nrice", "rice<sep>beans\nquestion: late",
    "question: what<sep>rice<sep>beans", "QUESTION : what\nrice", "a" * 161, "a" * 100_000, "rice<sep>" * 5_000,
    "\n" * 10_000, "question: " * 10_000, "米を炊く<sep>玄米", "как варить рис<sep>рис", "أرز<sep>بني", "🍚<sep>🍚🍚",
    "ﷺ" * 160, "e\u0301" * 200, "i\u0307<sep>İ", "</s><s>rice</s>", "### Response:\nrice", "<|im_end|>", "<think>hm</think>",
]  # fmt: skip
CASES = [(text, task) for text in NASTY for task in ("suggest", "clarify", "snippets")]
PIECES = st.sampled_from(
    ["<sep>", "\n", " ", "rice", "Rice?", "1. ", "- ", '"', "question:", "guide: ", "[", "]", ",", "```"]
)
COMPLETIONS = st.one_of(st.text(st.characters()), st.lists(PIECES, max_size=25).map("".join))
WORD = st.text("abcdefghijklmnopqrstuvwxyz0123456789éü米", min_size=1, max_size=9)
QUERY = st.lists(
    st.one_of(WORD, st.sampled_from(["c++", "c#", "5'", "don't", "a/b", "3.5", "10:30", "-5", '"it"'])),
    min_size=1,
    max_size=6,
)
NORMAL_QUERY = QUERY.map(" ".join).filter(lambda query: any(c.isalnum() for c in query) and query.count('"') != 2)
LISTS = st.lists(NORMAL_QUERY, min_size=1, max_size=5, unique_by=match_key)


def assert_sound(parsed: ParsedList, text: str, n: int) -> None:
    assert parsed.queries or parsed.problem
    assert len(parsed.queries) == len(parsed.spans) <= n
    assert len({match_key(query) for query in parsed.queries}) == len(parsed.queries)
    for query, (begin, end) in zip(parsed.queries, parsed.spans, strict=True):
        assert 0 <= begin < end <= len(text)
        assert query in one_line(text[begin:end])
        assert query == one_line(query)
        assert len(query) <= MAX_QUERY_CHARS
    for value in parsed.texts.values():
        assert value == one_line(value)


@pytest.mark.parametrize(("text", "task"), CASES)
def test_a_nasty_completion_is_read_soundly_and_at_once(text: str, task: str) -> None:
    started = time.thread_time()

    parsed = get_task(task).parse(text, n=3, separator="<sep>")

    assert time.thread_time() - started < 0.2
    assert_sound(parsed, text, 3)


@settings(max_examples=300)
@given(COMPLETIONS, st.sampled_from(sorted(all_tasks())), st.integers(1, 12), st.sampled_from(["<sep>", " <SEP> "]))
def test_any_completion_is_read_soundly(text: str, task: str, n: int, separator: str) -> None:
    parsed = get_task(task).parse(text, n=n, separator=separator)

    assert_sound(parsed, text, n)


@settings(max_examples=200)
@given(LISTS, st.sampled_from(sorted(all_tasks())), st.sampled_from([OURS, LITERAL]))
def test_what_a_task_writes_it_reads_back(queries: list[str], name: str, text_format: TextFormat) -> None:
    task = get_task(name)
    texts = {auxiliary: f"some {auxiliary} text" for auxiliary in task.auxiliary}
    response = task.response(queries, texts, text_format)

    parsed = task.parse(response, n=5, separator=text_format.separator)

    assert list(parsed.queries) == [one_line(query) for query in queries]
    assert parsed.texts == texts
    assert parsed.problem is None


@settings(max_examples=50, deadline=None)
@given(LISTS)
def test_a_list_survives_our_tokenizer(queries: list[str]) -> None:
    task, tokenizer = get_task("suggest"), own_tokenizer()
    ids = tokenizer.encode_response(task.response(queries, {}, tokenizer.format))[:-1]

    parsed = task.parse(tokenizer.decode(ids), n=5, separator=tokenizer.format.separator)

    assert list(parsed.queries) == [one_line(query).lower() for query in queries]


@pytest.mark.parametrize(
    ("text", "queries"),
    [
        ("rice<sep>beans", ["rice", "beans"]),
        ("rice<SEP>beans", ["rice", "beans"]),
        ("1. rice\n2) beans\n(3) peas", ["rice", "beans", "peas"]),
        ("1. rice <sep>\n2. beans", ["rice", "beans"]),
        ("- rice\n* beans\n• peas", ["rice", "beans", "peas"]),
        ('["rice", "beans"]', ["rice", "beans"]),
        ('```json\n[\n  "rice",\n  "beans"\n]\n```', ["rice", "beans"]),
        ("```\nrice\nbeans\n```", ["rice", "beans"]),
        ("Here are your queries:\nrice\nbeans", ["rice", "beans"]),
        ("**rice**\n**beans**", ["rice", "beans"]),
        ("\"rice\"<sep>“beans”<sep>'peas'", ["rice", "beans", "peas"]),
        ("3.5 mm jack<sep>10:30 train<sep>-5 celsius", ["3.5 mm jack", "10:30 train", "-5 celsius"]),
        (
            '"let it be" and "hey jude"<sep>"let it be" chords<sep>tv 27"',
            ['"let it be" and "hey jude"', '"let it be" chords', 'tv 27"'],
        ),
        ("rice<sep>Rice?<sep>rice", ["rice"]),
        (f"{'a' * 161}<sep>rice", ["rice"]),
    ],
)
def test_what_models_make_of_a_list_is_understood(text: str, queries: list[str]) -> None:
    assert list(get_task("suggest").parse(text, n=5, separator="<sep>").queries) == queries


@pytest.mark.parametrize(
    ("text", "texts", "problem"),
    [
        ("guide: g\nprefix: p\nsuffix: s\nrice", {"guide": "g", "prefix": "p", "suffix": "s"}, None),
        ("guide: g\nprefix: p\nsuffix:\nrice", {"guide": "g", "prefix": "p", "suffix": ""}, None),
        ("suffix: s\nguide: g\nprefix: p\nrice", {"guide": "g", "prefix": "p", "suffix": "s"}, None),
        ("guide: g\nguide: h\nprefix: p\nsuffix: s\nrice", {"guide": "g", "prefix": "p", "suffix": "s"}, None),
        ("guide: g\nrice", {"guide": "g"}, "missing prefix, suffix"),
        ("rice", {}, "missing guide, prefix, suffix"),
    ],
)
def test_auxiliary_texts_are_read_in_any_order_once_and_missed(
    text: str, texts: dict[str, str], problem: str | None
) -> None:
    parsed = get_task("snippets").parse(text, n=3, separator="<sep>")

    assert (parsed.queries, parsed.texts, parsed.problem) == (("rice",), texts, problem)


@pytest.mark.parametrize(("text", "problem"), [(" \n", "empty completion"), ("??<sep>", "no query in the completion")])
def test_an_empty_list_says_why(text: str, problem: str) -> None:
    assert get_task("suggest").parse(text, n=3, separator="<sep>").problem == problem


def test_spans_are_where_the_queries_stand() -> None:
    #       0123456789
    text = " rice<sep> beans"

    spans = get_task("suggest").parse(text, n=3, separator="<sep>").spans

    assert spans == ((0, 5), (10, 16))
