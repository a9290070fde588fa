"""What the click predictor sees of a list: GQR Figure 2 and its two simpler variants, as padded arrays.

It knows nothing about models or where the lists come from; training and serving compose their rows here.

    ctx     [CLS] q_user q_1 .. q_{k-1} [SEP] q_k     domain 0 0 1 .. k-1 k k     segment 1: q_k only
    pid     [CLS] q_user [SEP] q_k _k                 domain 0 throughout         segment 1: q_k and _k
    plain   [CLS] q_user [SEP] q_k                    domain 0 throughout         segment 1: q_k only

The table of Figure 2 gives the [SEP] before the target the target's domain and segment 0. Only `ctx` has domains: in the
others they would tell the position apart, or be a constant.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.contract.query_text import one_line
from service.contract.types import EventSource, PromptContext

QUERY_TOKENS = 24  # a query's own tokens; the longest query that may be shown, 160 characters, has about 30
MOST_POSITIONS = 12  # the longest list that a task has (snippets)
_STEP = 2  # rows are padded to a multiple of it

Ints = NDArray[np.integer[Any]]


class Variant(StrEnum):
    """What a row holds besides the two queries (GQR B.2)."""

    PLAIN = "plain"
    PID = "pid"
    CTX = "ctx"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How rows are laid out for one model.

    Attributes:
        positions: positions that training has seen; a later one counts as the last, and what stands beyond is not seen.
        suffixes: token ids of `_1`, `_2`, ... for `pid`, encoded by themselves, so that each query is stored once.
    """

    variant: Variant
    positions: int
    cls_id: int
    sep_id: int
    pad_id: int
    suffixes: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Lists:
    """Tokens of many lists, each query once: q_user, q_1 .. q_N of one list, then the next.

    Attributes:
        tokens: (T,), without special tokens.
        domains: j of the query that each token belongs to, 0 for q_user, (T,).
        starts: where each query starts in `tokens`, (Q + 1,).
    """

    tokens: Ints
    domains: Ints
    starts: Ints


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of one length, each (B, L) int64. `mask`: 1 where a token is, 0 where padding is."""

    token_ids: NDArray[np.int64]
    segments: NDArray[np.int64]
    domains: NDArray[np.int64]
    mask: NDArray[np.int64]


def user_query(context: PromptContext) -> str:
    """q_user: what stands as the prompt's Query line. The typed query, else the last of the session, else of the searches.

    Empty where there is none of them.
    """
    searched = [event.text for event in context.history if event.source is EventSource.SEARCH]
    return one_line(context.query or (list(context.session) or searched or [""])[-1])


def layout_for(tokenizer: Any, variant: Variant, positions: int) -> Layout:
    """The layout of rows under a Hugging Face tokenizer; BERT's and RoBERTa's names of the special tokens both do."""
    first, between = tokenizer.cls_token_id, tokenizer.sep_token_id
    return Layout(
        variant=variant,
        positions=positions,
        cls_id=tokenizer.bos_token_id if first is None else first,
        sep_id=tokenizer.eos_token_id if between is None else between,
        pad_id=tokenizer.pad_token_id or 0,
        suffixes=tuple(tuple(tokenize(tokenizer, [f"_{k}"])[0]) for k in range(1, positions + 1)),
    )


def tokenize(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text, at most `QUERY_TOKENS`, without special tokens; equal texts are encoded once."""
    distinct = list(dict.fromkeys(texts))
    if not distinct:
        return []
    encoded = tokenizer(distinct, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
    by_text = {text: ids[:QUERY_TOKENS] for text, ids in zip(distinct, encoded, strict=True)}
    return [by_text[text] for text in texts]


def lists_of(token_lists: Iterable[Sequence[Sequence[int]]]) -> Lists:
    """Lay out lists in memory; each item is the token ids of [q_user, q_1, .., q_N]."""
    queries: list[Sequence[int]] = []
    numbers: list[int] = []
    for queries_of_list in token_lists:
        queries += queries_of_list
        numbers += range(len(queries_of_list))
    lengths = np.fromiter(map(len, queries), np.int64, len(queries))
    return Lists(
        tokens=np.fromiter(chain.from_iterable(queries), np.int64, int(lengths.sum())),
        domains=np.repeat(np.array(numbers, np.int64), lengths),
        starts=np.concatenate([[0], np.cumsum(lengths)]),
    )


def row_lengths(lists: Lists, first: Ints, position: Ints, layout: Layout) -> NDArray[np.int64]:
    """Tokens of each row, special ones included, (R,); `first` and `position` as in `compose`."""
    context, target = _spans(lists, first, position, layout)
    return np.asarray(2 + context[1] + target[1] + _suffix_lengths(position, layout), np.int64)


def compose(lists: Lists, first: Ints, position: Ints, layout: Layout) -> Batch:
    """The rows of targets in lists, padded to the longest. GQR Figure 2.

    Args:
        lists: where the tokens are.
        first: index of each row's q_user among the queries of `lists`, (B,).
        position: k of each row's target, from 1, (B,).
        layout: of the model that will read them.
    """
    (context_start, context), (target_start, target) = _spans(lists, first, position, layout)
    suffix = _suffix_lengths(position, layout)
    lengths = 2 + context + target + suffix
    longest = int(-(-lengths.max() // _STEP) * _STEP)
    shape = (len(position), longest)
    columns = np.arange(longest)

    mask = columns < lengths[:, None]
    ids = np.full(shape, layout.pad_id, np.int64)
    domains = np.zeros(shape, np.int64)
    ids[:, 0] = layout.cls_id
    rows, offset = ragged(context)
    ids[rows, 1 + offset] = lists.tokens[context_start[rows] + offset]
    if layout.variant is Variant.CTX:
        domains[rows, 1 + offset] = lists.domains[context_start[rows] + offset]
        k = np.minimum(position, layout.positions).astype(np.int64)
        domains = np.where(mask & (columns > context[:, None]), k[:, None], domains)
    ids[np.arange(len(position)), 1 + context] = layout.sep_id
    rows, offset = ragged(target)
    ids[rows, 2 + context[rows] + offset] = lists.tokens[target_start[rows] + offset]
    rows, offset = ragged(suffix)
    if len(rows):
        flat = np.concatenate([_suffix(int(k), layout) for k in position])
        ids[rows, 2 + context[rows] + target[rows] + offset] = flat
    segments = mask & (columns > 1 + context[:, None])
    return Batch(ids, segments.astype(np.int64), domains, mask.astype(np.int64))


def _spans(lists: Lists, first: Ints, position: Ints, layout: Layout) -> Any:
    """(start, length) of what stands before [SEP], and of the target, each (B,)."""
    first, position = first.astype(np.int64), position.astype(np.int64)
    seen = np.minimum(position, layout.positions) if layout.variant is Variant.CTX else np.ones_like(position)
    begin, end = lists.starts[first], lists.starts[first + seen]
    target, after = lists.starts[first + position], lists.starts[first + position + 1]
    return (begin, end - begin), (target, after - target)


def _suffix(position: int, layout: Layout) -> tuple[int, ...]:
    return layout.suffixes[min(position, layout.positions) - 1]


def _suffix_lengths(position: Ints, layout: Layout) -> NDArray[np.int64]:
    if layout.variant is not Variant.PID:
        return np.zeros(len(position), np.int64)
    return np.fromiter((len(_suffix(int(k), layout)) for k in position), np.int64, len(position))


def tokens_of(lists: Lists, queries: Ints, until: Ints | None = None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Tokens of the queries, or of those from each up to `until`, one after another, and how many each has."""
    begin = np.asarray(lists.starts[queries], np.int64)
    n = np.asarray(lists.starts[queries + 1 if until is None else until], np.int64) - begin
    query, place = ragged(n)
    return np.asarray(lists.tokens[begin[query] + place], np.int64), n


def ragged(lengths: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row and offset of every element of ragged rows: lengths [2, 1] give [0, 0, 1] and [0, 1, 0]."""
    rows = np.repeat(np.arange(len(lengths)), lengths)
    return rows, np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
