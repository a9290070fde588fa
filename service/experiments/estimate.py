"""What arms came to: click-through rates, their lifts, and intervals that allow for people who come more than once.

It knows nothing about experiments or where counts come from. Sums over clusters of units are all it needs.
"""

from dataclasses import dataclass
from math import expm1, factorial, log, log1p, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chisquare, norm

LEVEL = 0.05
SRM_LEVEL = 0.001
_LEAST_CLICKED = 10  # lists with a click, in each of two arms: below, a normal approximation says nothing
_POWER = 0.8


@dataclass(frozen=True, slots=True)
class Rates:
    """A ratio of sums for each of A arms, as clicked lists over lists: (A,), with its covariance, (A, A)."""

    value: NDArray[np.float64]
    covariance: NDArray[np.float64]

    @classmethod
    def of(cls, top: NDArray[np.float64], bottom: NDArray[np.float64]) -> "Rates":
        """From sums over clusters, both (A, B). Units of one cluster may depend on each other, clusters may not.

        Linearised as survey statistics do: arm a and cluster b have the residual (top - value * bottom) / sum of bottom.
        """
        clusters, total = top.shape[1], bottom.sum(axis=1, keepdims=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            value = top.sum(axis=1, keepdims=True) / total
            residual = (top - value * bottom) / total
            covariance = residual @ residual.T * clusters / (clusters - 1)
        return cls(value[:, 0], covariance)

    def interval(self, arm: int, level: float = LEVEL) -> tuple[float, float]:
        """The interval of one rate that holds it with probability 1 - `level`, by the normal approximation."""
        half = norm.isf(level / 2) * sqrt(self.covariance[arm, arm])
        return float(self.value[arm] - half), float(self.value[arm] + half)

    def log_ratio(self, arm: int, control: int = 0) -> tuple[float, float]:
        """Logarithm of the ratio of two rates, and its variance (delta method)."""
        one, other = self.value[arm], self.value[control]
        covariance = self.covariance
        variance = (
            covariance[arm, arm] / one**2
            + covariance[control, control] / other**2
            - 2 * covariance[arm, control] / (one * other)
        )
        return log(one / other), float(variance)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lift:
    """Relative lift of an arm over the control; ends of intervals are relative too.

    `low`, `high`: for who looks once, at a time that was set before. `always_low`, `always_high`: for who looks every
    day and stops when it pleases (mSPRT). `variance`: of the logarithm of the ratio.
    """

    value: float
    low: float
    high: float
    always_low: float
    always_high: float
    variance: float


def lift(rates: Rates, clicked: NDArray[np.float64], arm: int, planned: float) -> Lift | None:
    """The lift of `arm` over arm 0; None where too few lists were clicked. `clicked`: such lists of each arm, (A,).

    `planned`: the lift that is looked for, which sets the width of the mixture of the always-valid interval. Of several
    arms beside the control each has its part of the level (Bonferroni), so that one among many does not win by chance.
    """
    level = LEVEL / max(1, len(rates.value) - 1)
    if min(clicked[0], clicked[arm]) < _LEAST_CLICKED:
        return None
    value, variance = rates.log_ratio(arm)
    if not variance > 0:
        return None
    once = float(norm.isf(level / 2)) * sqrt(variance)
    always = always_valid_half_width(variance, planned, level)
    return Lift(
        value=expm1(value),
        low=expm1(value - once),
        high=expm1(value + once),
        always_low=expm1(value - always),
        always_high=expm1(value + always),
        variance=variance,
    )


def always_valid_half_width(variance: float, planned: float, level: float = LEVEL) -> float:
    """Half of an interval that holds the log ratio at all times at once with probability 1 - `level`.

    The mixture sequential probability ratio test with a normal mixture of standard deviation t = log(1 + planned):
    Johari, Koomen, Pekelis and Walsh, "Always Valid Inference" (2022), eq. 8 and its inversion; v is the variance now:
    sqrt(v (v + t^2) / t^2 * log((v + t^2) / (v level^2))).
    """
    mixed = log1p(planned) ** 2
    return sqrt(variance * (variance + mixed) / mixed * log((variance + mixed) / (variance * level**2)))


def power(variance: float, planned: float, level: float = LEVEL) -> float:
    """Probability to find a lift of `planned` in one look, when the log ratio has this variance."""
    reach, edge = log1p(planned) / sqrt(variance), float(norm.isf(level / 2))
    return float(norm.sf(edge - reach) + norm.cdf(-edge - reach))


def times_more(variance: float, planned: float, level: float = LEVEL) -> float:
    """By how much the lists must grow, relative to those so far, to find `planned` with probability .8."""
    needed = log1p(planned) / float(norm.isf(level / 2) + norm.isf(1 - _POWER))
    return variance / needed**2


def sample_ratio_p(units: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """Probability that units fall into arms as unevenly as this, or more, where they are assigned by `weights`.

    Pearson's chi-squared test; below `SRM_LEVEL` something else than chance decides who is counted.
    """
    return float(chisquare(units, units.sum() * weights / weights.sum()).pvalue)


@dataclass(frozen=True, slots=True, kw_only=True)
class OffPolicy:
    """What another order would have come to, and how many lists of its own that estimate is worth."""

    value: float
    low: float
    high: float
    effective_lists: float


def snips(clicked: NDArray[np.float64], weights: NDArray[np.float64], cluster: NDArray[np.int64]) -> OffPolicy | None:
    """Self-normalised inverse propensity estimate of clicked lists over lists (Swaminathan and Joachims, 2015, eq. 9).

    Of L lists: whether each was clicked, probability under the other policy over that under the one that served, and the
    cluster of its unit, all (L,). None where no list could have come of the other policy, or there is one cluster only.
    """
    _, number = np.unique(cluster, return_inverse=True)
    if not weights.any() or number.max() < 1:
        return None
    top, bottom = (np.bincount(number, each).astype(np.float64)[None] for each in (weights * clicked, weights))
    rates = Rates.of(top, bottom)
    low, high = rates.interval(0)
    worth = float(weights.sum() ** 2 / (weights**2).sum())
    return OffPolicy(value=float(rates.value[0]), low=low, high=high, effective_lists=worth)


def order_weights(
    is_best: NDArray[np.bool_], length: NDArray[np.int64], served_share: float, asked_share: float
) -> NDArray[np.float64]:
    """Weights of lists whose order was drawn for `served_share` of them, for `asked_share` instead, (L,).

    An order is the best one with probability 1 - e + e / n!, and each other one with e / n! (decision 0010).
    """
    orders = np.array([1 / factorial(n) for n in range(int(length.max()) + 1)])[length]

    def probability(share: float) -> NDArray[np.float64]:
        return (1 - share) * is_best + share * orders

    served = probability(served_share)
    return np.divide(probability(asked_share), served, out=np.zeros_like(served), where=served > 0)
