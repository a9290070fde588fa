"""What a click predictor must beat: one file each, all with one protocol."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ctr.rows import Rows


class Baseline(Protocol):
    """Learns from rows, then predicts others."""

    name: str

    def fit(self, rows: Rows) -> None:
        """Learn; what sampling left out is made up for."""

    def predict(self, rows: Rows) -> NDArray[np.float64]:
        """P(click) of each row, (R,)."""
