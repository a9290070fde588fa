"""How much a triple says: its frequency, corrected for queries that follow everything, and for age.

It knows nothing about files, nor about where its numbers come from.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def weight(
    count: ArrayLike,
    total: ArrayLike,
    popularity: ArrayLike,
    age_days: ArrayLike,
    *,
    pair_count: int,
    damping: float = 0.1,
    half_life_days: float = 30.0,
    smoothing: float = 1.0,
) -> NDArray[np.float64]:
    """P(next | q) / P(next) ** damping * 0.5 ** (age / half-life), (N,); comparable between queries.

    A query that follows everything says nothing about the one before it: at damping 1 this is the lift, whose logarithm
    is the pointwise mutual information, and which favours what is rare; at damping 0 it is GQR's frequency, which
    favours what is typed everywhere. In between it is PMI with a smoothed context distribution (Levy, Goldberg and
    Dagan 2015, section 3.2), P(next) ** damping.

    Args:
        count: c of each triple, (N,).
        total: sum of c over everything that follows q, (N,); P(next | q) = count / (total + smoothing).
        popularity: sum of c over everything that next follows, (N,); P(next) = popularity / pair_count.
        age_days: days since the triple last occurred, (N,), at least 0.
        pair_count: sum of c over the whole window, `MiningReport.pair_count`.
        damping: from 0 to 1.
        half_life_days: after so many days a triple counts half.
        smoothing: transitions to nowhere that are counted with every q, so that once out of once is no certainty.
    """
    confidence = np.asarray(count, np.float64) / (np.asarray(total, np.float64) + smoothing)
    prior = np.asarray(popularity, np.float64) / pair_count
    recency = 0.5 ** (np.asarray(age_days, np.float64) / half_life_days)
    found: NDArray[np.float64] = confidence / prior**damping * recency
    return found
