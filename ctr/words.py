"""What words and the position alone say of a click: a logistic regression, from which training sets out.

Its features are the tokens of the target, each beside each token of q_user, and the position. It knows nothing about what
stands before, nor about word order and neural models.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctr.features import MOST_POSITIONS, Ints, ragged
from ctr.rows import Rows

_MOST_ROWS = 100_000  # that are fitted on
_CHUNK = 32_768
_PAIRS = 1 << 19  # hashed pairs of tokens
_ODD, _ADDED = 1_000_003, 12_345
_STRENGTH, _OF_PAIRS = 8.0, 0.7  # sklearn's C: what few rows have stays near 0; and how much less a pair may say


def word_rates(rows: Rows, vocabulary: int, *, with_position: bool, seed: int = 0) -> NDArray[np.float32]:
    """P(click) of each row of the training part, (R,), of which at most 100,000 are fitted on.

    Args:
        rows: labels are shares of clicks, weights how often a row was shown.
        vocabulary: how many token ids there are.
        with_position: whether the position may say something.
        seed: decides which rows are fitted on.
    """
    from sklearn.linear_model import LogisticRegression

    chosen = np.arange(len(rows))
    if len(rows) > _MOST_ROWS:
        chosen = np.sort(np.random.default_rng(seed).choice(len(rows), _MOST_ROWS, replace=False))
    label, weight = (np.asarray(each[chosen], np.float64) for each in (rows.label, rows.weight))
    words = _words(rows, chosen, vocabulary, with_position)
    clicked, passed = np.flatnonzero(label), np.flatnonzero(label < 1.0)
    model = LogisticRegression(C=_STRENGTH, max_iter=200)
    model.fit(
        words[np.concatenate([clicked, passed])],  # a row that some clicked and some passed stands on both sides
        np.repeat([1, 0], [len(clicked), len(passed)]),
        np.concatenate([(weight * label)[clicked], (weight * (1.0 - label))[passed]]),
    )
    parts = (np.arange(begin, min(begin + _CHUNK, len(rows))) for begin in range(0, len(rows), _CHUNK))
    rates = [model.predict_proba(_words(rows, part, vocabulary, with_position))[:, 1] for part in parts]
    return np.asarray(np.concatenate(rates), np.float32)


def _words(rows: Rows, chosen: Ints, vocabulary: int, with_position: bool) -> Any:
    """Tokens of the target, their pairs with those of q_user, and the position, (R, features).

    Tokens together, and pairs together, have the same length in every row, however many they are.
    """
    from scipy.sparse import csr_matrix

    position = np.asarray(rows.position[chosen], np.int64)
    asked = np.asarray(rows.first[chosen])
    tokens, starts = rows.lists.tokens, rows.lists.starts
    (asked_at, asked_n), (shown_at, shown_n) = (
        (np.asarray(starts[query]), np.asarray(starts[query + 1]) - np.asarray(starts[query]))
        for query in (asked, asked + position)
    )
    row, place = ragged(shown_n)
    columns, values = [np.asarray(tokens[shown_at[row] + place], np.int64)], [1.0 / np.sqrt(shown_n[row])]
    of_pair, place = ragged(asked_n * shown_n)
    one = np.asarray(tokens[asked_at[of_pair] + place // shown_n[of_pair]], np.int64)
    other = np.asarray(tokens[shown_at[of_pair] + place % shown_n[of_pair]], np.int64)
    columns.append(vocabulary + ((one + 1) * _ODD + (other + 1) * _ADDED) % _PAIRS)
    values.append(_OF_PAIRS / np.sqrt((asked_n * shown_n)[of_pair]))
    found = [row, of_pair]
    if with_position:
        found.append(np.arange(len(chosen)))
        columns.append(vocabulary + _PAIRS + np.minimum(position, MOST_POSITIONS))
        values.append(np.ones(len(chosen)))
    shape = (len(chosen), vocabulary + _PAIRS + MOST_POSITIONS + 1)
    return csr_matrix((np.concatenate(values), (np.concatenate(found), np.concatenate(columns))), shape=shape)
