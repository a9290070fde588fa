"""Query popularity: the smoothed click rate of the query's text, wherever and to whomever it was shown."""

import numpy as np
from numpy.typing import NDArray

from ctr.rows import Rows

_PRIOR_ROWS = 20.0  # a query counts as shown so often at the overall rate, before it was shown at all


class Popularity:
    """The click rate of each query text in training, drawn towards that of all; an unseen query has that of all."""

    name = "popularity"

    def fit(self, rows: Rows) -> None:
        """Count clicks and rows of each query."""
        weights = rows.importance
        self._queries, number = np.unique(rows.query, return_inverse=True)
        shown, clicks = np.bincount(number, weights), np.bincount(number, weights * rows.label)
        self._overall = float(clicks.sum() / shown.sum())
        self._rate = (clicks + _PRIOR_ROWS * self._overall) / (shown + _PRIOR_ROWS)

    def predict(self, rows: Rows) -> NDArray[np.float64]:
        """P(click) of each row, (R,)."""
        place = np.minimum(np.searchsorted(self._queries, rows.query), len(self._queries) - 1)
        return np.where(self._queries[place] == rows.query, self._rate[place], self._overall)
