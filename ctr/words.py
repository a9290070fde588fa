"""What words and the position alone say of a click: a logistic regression, from which training sets out.

Its features are the tokens of the target, their bigrams, each beside each token of q_user, how much of the target is said in
q_user, its length, and the position; for `ctx` also each token beside each one of the query above, and how much of the
target is said in the list so far. It knows nothing about neural models.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctr.features import MOST_POSITIONS, Ints, Lists, Variant, ragged, tokens_of
from ctr.rows import Rows

_MOST_ROWS = 100_000  # that are fitted on
_CHUNK = 32_768
_PAIRS = 1 << 19  # hashed pairs of tokens
_ODD, _ADDED = 1_000_003, 12_345
_STRENGTH = 1.0  # sklearn's C: what was seldom shown stays near 0
_OF_PAIRS, _OF_BIGRAMS, _OF_ABOVE = 0.7, 0.5, 0.35  # and how much less than a token they may say
_LONG = 10.0  # tokens of a target


class WordRates:
    """P(click) as words alone know it."""

    def __init__(self, rows: Rows, vocabulary: int, variant: Variant, *, times: float = 1.0, seed: int = 0) -> None:
        """Fit on the rows of the training part, or 100,000 of them.

        Args:
            rows: labels are shares of clicks.
            vocabulary: how many token ids there are.
            variant: plain rows have no position, and only ctx has what stands before.
            times: how often a row of weight 1 was shown.
            seed: decides which rows are fitted on.
        """
        from sklearn.linear_model import LogisticRegression

        self._vocabulary, self._variant = vocabulary, variant
        chosen = np.arange(len(rows))
        if len(rows) > _MOST_ROWS:
            chosen = np.sort(np.random.default_rng(seed).choice(len(rows), _MOST_ROWS, replace=False))
        label, weight = (np.asarray(each[chosen], np.float64) for each in (rows.label, rows.weight))
        weight *= times
        words = self._words(rows.lists, rows.first[chosen], rows.position[chosen])
        weights = np.zeros(words.shape[1])
        seen = np.unique(words.indices)  # the others keep a weight of 0
        words = words[:, seen]
        clicked, passed = np.flatnonzero(label), np.flatnonzero(label < 1.0)
        model = LogisticRegression(C=_STRENGTH, max_iter=200)
        model.fit(
            words[np.concatenate([clicked, passed])],  # a row that some clicked and some passed stands on both sides
            np.repeat([1, 0], [len(clicked), len(passed)]),
            np.concatenate([(weight * label)[clicked], (weight * (1.0 - label))[passed]]),
        )
        weights[seen] = model.coef_[0]
        self._weights, self._bias = weights, float(model.intercept_[0])

    def of(self, lists: Lists, first: Ints, position: Ints) -> NDArray[np.float32]:
        """P(click) of rows as `ctr.features.compose` takes them, (R,)."""
        from scipy.special import expit

        found = np.empty(len(position), np.float32)
        for begin in range(0, len(position), _CHUNK):
            part = slice(begin, begin + _CHUNK)
            found[part] = expit(self._words(lists, first[part], position[part]) @ self._weights + self._bias)
        return found

    def _words(self, lists: Lists, first: Ints, position: Ints) -> Any:
        """Tokens of the target, pairs of tokens, and the position, (R, features).

        Tokens together, and pairs together, have the same length in every row, however many they are.
        """
        from scipy.sparse import csr_matrix

        first, position = np.asarray(first, np.int64), np.asarray(position, np.int64)
        everyone, below = np.arange(len(position)), np.flatnonzero(position > 1)
        asked, target = tokens_of(lists, first), tokens_of(lists, first + position)
        shown, n = target
        said = _said(*target, *asked, self._vocabulary)
        facts = [said, said == 1.0, n / _LONG]
        parts = [
            (everyone.repeat(n), shown, 1.0 / np.sqrt(n).repeat(n)),
            _pairs(everyone, *asked, *target, _OF_PAIRS),
            _bigrams(*target),
        ]
        widths = [self._vocabulary, _PAIRS, _PAIRS]
        if self._variant is not Variant.PLAIN:
            parts.append((everyone, np.minimum(position, MOST_POSITIONS), np.ones(len(position))))
            widths.append(MOST_POSITIONS + 1)
        if self._variant is Variant.CTX:
            facts.append(_said(*target, *tokens_of(lists, first + 1, first + position), self._vocabulary))
            above, under = (tokens_of(lists, (first + position - back)[below]) for back in (1, 0))
            parts.append(_pairs(below, *above, *under, _OF_ABOVE))
            widths.append(_PAIRS)
        parts += [(everyone, np.zeros_like(everyone), np.asarray(fact, np.float64)) for fact in facts]
        widths += [1] * len(facts)
        begin = np.cumsum([0, *widths])
        row, value = (np.concatenate([part[of] for part in parts]) for of in (0, 2))
        column = np.concatenate([part[1] + at for part, at in zip(parts, begin, strict=False)])
        return csr_matrix((value, (row, column)), shape=(len(position), begin[-1]))


_Tokens = NDArray[np.int64]
_Entries = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]
"""Rows, columns and values."""


def _said(shown: _Tokens, n: Ints, before: _Tokens, m: Ints, vocabulary: int) -> NDArray[np.float64]:
    """Share of the tokens of each target, n of them, that are among the m that stand before it, (R,)."""
    row, row_before = (np.repeat(np.arange(len(each)), each) for each in (n, m))
    found = np.isin(row * vocabulary + shown, row_before * vocabulary + before)
    return np.asarray(np.bincount(row, found, len(n)) / np.maximum(n, 1))


def _bigrams(shown: _Tokens, n: Ints) -> _Entries:
    row = np.repeat(np.arange(len(n)), n)
    same = row[1:] == row[:-1]
    row = row[1:][same]
    return row, _hashed(shown[:-1][same], shown[1:][same]), _OF_BIGRAMS / np.sqrt(np.asarray(n)[row] - 1.0)


def _pairs(rows: Ints, ones: _Tokens, n: Ints, others: _Tokens, m: Ints, strength: float) -> _Entries:
    """Each of the n tokens of one query of a row with each of the m of the other, which have the same length together."""
    of, place = ragged(n * m)
    left = ones[(np.cumsum(n) - n)[of] + place // m[of]]
    right = others[(np.cumsum(m) - m)[of] + place % m[of]]
    value = np.asarray(strength / np.sqrt((n * m)[of]), np.float64)
    return np.asarray(rows, np.int64)[of], _hashed(left, right), value


def _hashed(left: _Tokens, right: _Tokens) -> NDArray[np.int64]:
    return np.asarray(((left + 1) * _ODD + (right + 1) * _ADDED) % _PAIRS, np.int64)
