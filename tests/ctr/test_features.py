"""Rows are laid out as in GQR Figure 2, whatever else is in the batch."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctr.features import (
    QUERY_TOKENS,
    Layout,
    Variant,
    compose,
    layout_for,
    lists_of,
    row_lengths,
    tokenize,
    user_query,
)
from service.contract.types import EventSource, HistoryEvent, PromptContext

CLS, SEP, PAD = 101, 102, 0
SUFFIXES = ((90, 1), (90, 2), (90, 3), (90, 4))


def layout(variant: Variant, positions: int = 4) -> Layout:
    suffixes = SUFFIXES[:positions]
    return Layout(variant=variant, positions=positions, cls_id=CLS, sep_id=SEP, pad_id=PAD, suffixes=suffixes)


def slow_row(queries: list[list[int]], k: int, how: Layout) -> tuple[list[int], list[int], list[int]]:
    """Token ids, segments and domains of one row, token by token; `queries` are [q_user, q_1, .., q_N]."""
    is_ctx = how.variant is Variant.CTX
    seen = min(k, how.positions)
    row = [(CLS, 0, 0)]
    for j, query in enumerate(queries[: seen if is_ctx else 1]):
        row += [(token, 0, j if is_ctx else 0) for token in query]
    own = seen if is_ctx else 0
    row.append((SEP, 0, own))
    row += [(token, 1, own) for token in queries[k]]
    if how.variant is Variant.PID:
        row += [(token, 1, 0) for token in how.suffixes[seen - 1]]
    ids, segments, domains = (list(each) for each in zip(*row, strict=True))
    return ids, segments, domains


def rows_of(lists: list[list[list[int]]], wanted: list[tuple[int, int]], how: Layout) -> Any:
    begins = np.cumsum([0, *map(len, lists)])
    first = np.array([begins[number] for number, _ in wanted])
    position = np.array([k for _, k in wanted])
    laid_out = lists_of(lists)
    return compose(laid_out, first, position, how), row_lengths(laid_out, first, position, how)


def test_a_row_is_laid_out_as_in_figure_2():
    # Figure 2: q_user has 3 tokens, q_1 3, q_2 3, q_3 4 and the target q_4 2; 17 tokens with [CLS] and [SEP].
    queries = [[11, 12, 13], [21, 22, 23], [31, 32, 33], [41, 42, 43, 44], [51, 52]]

    batch, lengths = rows_of([queries], [(0, 4)], layout(Variant.CTX))

    assert lengths.tolist() == [17]
    assert batch.token_ids[0, :17].tolist() == [
        CLS, 11, 12, 13, 21, 22, 23, 31, 32, 33, 41, 42, 43, 44, SEP, 51, 52,
    ]  # fmt: skip
    assert batch.segments[0, :17].tolist() == [0] * 15 + [1, 1]
    assert batch.domains[0, :17].tolist() == [0] * 4 + [1] * 3 + [2] * 3 + [3] * 4 + [4] * 3
    assert batch.mask[0].tolist() == [1] * 17 + [0]
    assert batch.token_ids[0, 17:].tolist() == [PAD]


def test_a_plain_row_has_the_two_queries_only():
    batch, lengths = rows_of([[[11, 12], [21], [31, 32]]], [(0, 2)], layout(Variant.PLAIN))

    assert lengths.tolist() == [6]
    assert batch.token_ids[0, :6].tolist() == [CLS, 11, 12, SEP, 31, 32]
    assert batch.segments[0, :6].tolist() == [0, 0, 0, 0, 1, 1]
    assert not batch.domains.any()


def test_pid_puts_the_position_behind_the_target():
    batch, lengths = rows_of([[[11, 12], [21], [31, 32]]], [(0, 2)], layout(Variant.PID))

    assert lengths.tolist() == [8]
    assert batch.token_ids[0, :8].tolist() == [CLS, 11, 12, SEP, 31, 32, *SUFFIXES[1]]
    assert batch.segments[0, :8].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


QUERY = st.lists(st.integers(200, 999), max_size=5)
LISTS = st.lists(st.lists(QUERY, min_size=2, max_size=7), min_size=1, max_size=5)


@given(LISTS, st.sampled_from(Variant), st.integers(1, 4), st.data())
@settings(max_examples=200, deadline=None)
def test_rows_are_those_of_the_slow_layout(lists, variant, positions, data):
    wanted = data.draw(
        st.lists(st.sampled_from([(i, k) for i, q in enumerate(lists) for k in range(1, len(q))]), min_size=1)
    )
    how = layout(variant, positions)

    batch, lengths = rows_of(lists, wanted, how)

    for row, (number, k) in enumerate(wanted):
        ids, segments, domains = slow_row(lists[number], k, how)
        n = len(ids)
        assert lengths[row] == n
        assert batch.token_ids[row, :n].tolist() == ids
        assert batch.segments[row, :n].tolist() == segments
        assert batch.domains[row, :n].tolist() == domains
        assert batch.mask[row].tolist() == [1] * n + [0] * (batch.mask.shape[1] - n)
        assert not batch.segments[row, n:].any()
        assert not batch.domains[row, n:].any()


def test_a_query_is_cut_so_that_a_row_is_bounded(tokenizer):
    (ids,) = tokenize(tokenizer, ["rice " * 500])

    assert len(ids) == QUERY_TOKENS


def test_the_suffix_is_what_the_tokenizer_makes_of_it_behind_a_query(tokenizer):
    how = layout_for(tokenizer, Variant.PID, 2)

    whole, query = tokenize(tokenizer, ["rice recipe_2", "rice recipe"])

    assert whole == [*query, *how.suffixes[1]]


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        (PromptContext(n=1, query=" how to\ncook ", session=("tea",)), "how to cook"),
        (PromptContext(n=1, session=("tea", "cake")), "cake"),
        (
            PromptContext(
                n=1,
                history=(
                    HistoryEvent(source=EventSource.SEARCH, text="rice"),
                    HistoryEvent(source=EventSource.VISIT, text="a page"),
                ),
            ),
            "rice",
        ),
        (PromptContext(n=1), ""),
    ],
)
def test_the_users_query_is_what_stands_as_the_prompts_query_line(context, expected):
    assert user_query(context) == expected
