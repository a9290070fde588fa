"""Intervals by the bootstrap, with lists or people as units.

It knows nothing about what is measured.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

_TIMES = 300


def auc_interval(labels: ArrayLike, scores: ArrayLike, groups: ArrayLike, *, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the AUC; whole groups are drawn with replacement. Rows of equal score count half."""
    y, score = np.asarray(labels, np.float64), np.asarray(scores, np.float64)
    _, group = np.unique(np.asarray(groups), return_inverse=True)
    order = np.argsort(score, kind="stable")
    y, score, group = y[order], score[order], group[order]
    begins = np.flatnonzero(np.concatenate([[True], score[1:] != score[:-1]]))

    def weighted(weights: NDArray[np.float64]) -> float:
        clicked, rest = (np.add.reduceat(weights[group] * each, begins) for each in (y, 1 - y))
        below = np.cumsum(rest) - rest
        return float((clicked * (below + rest / 2)).sum() / (clicked.sum() * rest.sum()))

    return bootstrap(weighted, int(group.max()) + 1, seed=seed)


def bootstrap(of_weights: Callable[[NDArray[np.float64]], float], units: int, *, seed: int = 0) -> tuple[float, float]:
    """95 % interval of a figure of weighted units, (units,): each drawn as often as a resample draws it."""
    random = np.random.default_rng(seed)
    drawn = [
        of_weights(np.bincount(random.integers(units, size=units), minlength=units).astype(float))
        for _ in range(_TIMES)
    ]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)
