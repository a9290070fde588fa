"""Logistic regression on hashed words: those of the query, their pairs with those of q_user, and the position."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctr.rows import Rows

_FEATURES = 2**18
_WORDS = 10  # of each query; the rest is left out
_MOST_ROWS = 200_000
_CHUNK = 20_000


class HashedWords:
    """What click prediction was before neural models (Richardson et al. 2007), with hashing (Weinberger et al. 2009)."""

    name = "hashed_words"

    def __init__(self, seed: int = 0) -> None:
        from sklearn.feature_extraction.text import HashingVectorizer

        self._seed = seed
        self._vectorizer = HashingVectorizer(n_features=_FEATURES, analyzer=_features, norm=None, alternate_sign=True)

    def fit(self, rows: Rows) -> None:
        """Fit on at most 200,000 rows, drawn at random."""
        from sklearn.linear_model import LogisticRegression

        chosen = np.arange(len(rows))
        if len(rows) > _MOST_ROWS:
            chosen = np.sort(np.random.default_rng(self._seed).choice(len(rows), _MOST_ROWS, replace=False))
        self._model = LogisticRegression(max_iter=200)
        self._model.fit(self._vectors(rows, chosen), rows.label[chosen], sample_weight=rows.importance[chosen])

    def predict(self, rows: Rows) -> NDArray[np.float64]:
        """P(click) of each row, (R,)."""
        parts = (np.arange(begin, min(begin + _CHUNK, len(rows))) for begin in range(0, len(rows), _CHUNK))
        return np.concatenate([self._model.predict_proba(self._vectors(rows, part))[:, 1] for part in parts])

    def _vectors(self, rows: Rows, chosen: NDArray[np.int64]) -> Any:
        return self._vectorizer.transform(
            (rows.user_query(row), rows.query_text(row), int(rows.position[row])) for row in chosen
        )


def _features(row: tuple[str, str, int]) -> Iterator[str]:
    asked, query, position = row
    yield f"k={position}"
    asked_words = asked.casefold().split()[:_WORDS]
    for word in query.casefold().split()[:_WORDS]:
        yield word
        yield from (f"{other}\t{word}" for other in asked_words)
