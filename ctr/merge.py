"""Makes one row of all that a model cannot tell apart, with their clicks and showings added up.

A list that many people were shown gives the same row many times. Training then sees it often in one epoch and learns it
by heart; merged, it is seen once, and weighs what it weighed. Eq. 5 stays what it is: the label of a row is its share of
clicks. It knows nothing about models.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ctr.features import Lists, Variant
from ctr.rows import Rows

_QUERIES = 200_000  # hashed at once
_ODD = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio: Fibonacci hashing (Knuth, TAOCP 6.4)


def merged(rows: Rows, variant: Variant) -> Rows:
    """The distinct rows under `variant`, in the order of their first showing; weights have a mean of 1.

    Two are the same where a 64-bit hash of what the variant sees is: of a hundred million rows, one in 3,700 logs
    would merge a pair that differs.
    """
    first, number = distinct(rows, variant)
    weight, label = np.asarray(rows.weight, np.float64), np.asarray(rows.label, np.float64)
    shown = np.bincount(number, weight)
    share = np.bincount(number, weight * label) / shown
    order = np.argsort(first)
    chosen = first[order]
    return replace(
        rows,
        row_list=np.asarray(rows.row_list[chosen]),
        position=np.asarray(rows.position[chosen]),
        label=share[order].astype(np.float32),
        weight=(shown[order] / shown.mean()).astype(np.float32),
        query=np.asarray(rows.query[chosen]),
    )


def distinct(rows: Rows, variant: Variant) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The first row of each kind that `variant` tells apart, (D,), and which of them each row is like, (R,)."""
    _, first, number = np.unique(_keys(rows, variant), return_index=True, return_inverse=True)
    return first, number


def _keys(rows: Rows, variant: Variant) -> NDArray[np.uint64]:
    """A hash of what a model sees of each row: q_user, the target, and what the variant adds, (R,)."""
    queries, first = _hashes(rows.lists), rows.first
    position = np.asarray(rows.position, np.int64)
    key = _mixed(queries[first])
    if variant is Variant.CTX:
        for k in range(1, int(position.max()) + 1):
            there = position >= k
            key[there] = _mixed(key[there] + queries[first[there] + k])
    else:
        key = _mixed(key + queries[first + position])
    return key if variant is Variant.PLAIN else _mixed(key + position.astype(np.uint64))


def _hashes(lists: Lists) -> NDArray[np.uint64]:
    """A hash of the tokens of each query, (Q,): a polynomial modulo 2**64."""
    found = np.empty(len(lists.starts) - 1, np.uint64)
    for begin in range(0, len(found), _QUERIES):
        starts = np.asarray(lists.starts[begin : begin + _QUERIES + 1], np.int64)
        lengths = np.diff(starts)
        place = np.arange(starts[-1] - starts[0]) - np.repeat(starts[:-1] - starts[0], lengths)
        powers = np.cumprod(np.full(int(lengths.max(initial=0)) + 1, _ODD))
        terms = (lists.tokens[starts[0] : starts[-1]].astype(np.uint64) + np.uint64(1)) * powers[place]
        sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(terms)])
        found[begin : begin + _QUERIES] = _mixed(sums[starts[1:] - starts[0]] - sums[starts[:-1] - starts[0]])
    return found


def _mixed(key: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A bijection that spreads every bit over all (the finaliser of SplitMix64; Steele and others, 2014)."""
    key = key + _ODD
    key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(key ^ (key >> np.uint64(31)), np.uint64)
