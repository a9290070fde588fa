"""Platt scaling: two numbers that turn logits into probabilities, fitted on days that training did not see.

It knows nothing about models. It keeps the order of scores, so a search never meets ties that it made.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.contract.errors import ConfigurationError

LEAST, MOST = 1e-6, 1 - 1e-6


@dataclass(frozen=True, slots=True)
class Platt:
    """P(click) = sigmoid(slope * logit + offset) (Platt 1999)."""

    slope: float
    offset: float

    def probabilities(self, logits: NDArray[np.floating]) -> NDArray[np.float64]:
        """Calibrated probabilities, kept within [1e-6, 1 - 1e-6], same shape."""
        from scipy.special import expit

        p: NDArray[np.float64] = expit(self.slope * logits.astype(np.float64) + self.offset)
        return p.clip(LEAST, MOST)


def fit_platt(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> Platt:
    """Maximum likelihood on (R,) logits and labels.

    Raises:
        ConfigurationError: The logits say nothing about the clicks of that day, so there is nothing to scale.
    """
    from sklearn.linear_model import LogisticRegression

    centre, scale = float(np.mean(logits)), float(np.std(logits))
    if not (math.isfinite(centre) and scale > 0):
        raise ConfigurationError(
            "The click model says the same, or NaN, for every row of the days that calibrate. Train it longer, or on more."
        )
    standard = ((logits - centre) / scale).astype(np.float64).reshape(-1, 1)  # the solver stops early otherwise
    found = LogisticRegression(C=math.inf, tol=1e-8, max_iter=1000).fit(standard, labels)
    slope = float(found.coef_[0, 0]) / scale
    if slope <= 0:
        raise ConfigurationError(
            f"On the days that calibrate higher scores go with fewer clicks (slope {slope:.3g}), so the click model has "
            "learnt nothing that holds. Train it on more days, or look at what changed in the log."
        )
    return Platt(slope, float(found.intercept_[0]) - slope * centre)
