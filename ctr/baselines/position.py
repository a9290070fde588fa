"""Position only: the click rate of each position, and nothing about the queries."""

import numpy as np
from numpy.typing import NDArray

from ctr.rows import Rows


class Position:
    """The click rate of each position in training; a later position counts as the last."""

    name = "position"

    def fit(self, rows: Rows) -> None:
        """Count clicks and rows of each position."""
        weights = rows.importance
        shown = np.bincount(rows.position, weights)
        clicks = np.bincount(rows.position, weights * rows.label)
        overall = clicks.sum() / shown.sum()
        self._rate = (clicks + overall) / (shown + 1.0)  # one row of the overall rate, for a position without any

    def predict(self, rows: Rows) -> NDArray[np.float64]:
        """P(click) of each row, (R,)."""
        return np.asarray(self._rate[np.minimum(rows.position, len(self._rate) - 1)], np.float64)
