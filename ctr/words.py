"""What the words of a query and its position alone say of a click: a logistic regression, from which training sets out.

It knows nothing about what the person asked or what stands before, and nothing about neural models.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctr.features import MOST_POSITIONS, Ints
from ctr.rows import Rows

_MOST_ROWS = 200_000  # that are fitted on
_CHUNK = 65_536
_STRENGTH = 10.0  # sklearn's C: words that few rows have stay near 0


def word_rates(rows: Rows, vocabulary: int, *, with_position: bool, seed: int = 0) -> NDArray[np.float32]:
    """P(click) of each row of the training part, (R,), of which at most 200,000 are fitted on.

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
    """The tokens of each target, of equal length together whatever their number, and its position, (R, features)."""
    from scipy.sparse import csr_matrix

    position = np.asarray(rows.position[chosen], np.int64)
    query = np.asarray(rows.first[chosen]) + position
    begins, ends = np.asarray(rows.lists.starts[query]), np.asarray(rows.lists.starts[query + 1])
    lengths = ends - begins
    of_row = np.repeat(np.arange(len(chosen)), lengths)
    place = np.arange(len(of_row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    tokens = np.asarray(rows.lists.tokens[begins[of_row] + place], np.int64)
    values = 1.0 / np.sqrt(np.maximum(lengths, 1))[of_row]
    if with_position:
        of_row = np.concatenate([of_row, np.arange(len(chosen))])
        tokens = np.concatenate([tokens, vocabulary + np.minimum(position, MOST_POSITIONS)])
        values = np.concatenate([values, np.ones(len(chosen))])
    return csr_matrix((values, (of_row, tokens)), shape=(len(chosen), vocabulary + MOST_POSITIONS + 1))
