"""Metrics of click prediction: pure functions of labels and probabilities. GQR B.1, and the field's usual ones.

It knows nothing about models or rows. None stands for what is not defined, such as the AUC of a set without a click.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

BINS = 15
_TINY = 1e-12

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """How well probabilities fit clicks.

    Attributes:
        rows, clicks: how many were looked at.
        auc: probability that a clicked row scores above one that was not.
        gauc: mean AUC of people, weighted by their rows; people with one label only are left out.
        pair_accuracy: share of (clicked, not clicked) pairs of one list in the right order.
        logloss: GQR eq. 5.
        normalised_entropy: logloss / that of always saying the click rate; below 1 is better than that.
        pcoc: predicted clicks / clicks.
        ece: mean distance of predicted and real click rate over 15 bins of equal mass.
    """

    rows: int
    clicks: int
    auc: float | None
    gauc: float | None
    pair_accuracy: float | None
    logloss: float | None
    normalised_entropy: float | None
    pcoc: float | None
    ece: float | None


def measure(labels: ArrayLike, p: ArrayLike, people: ArrayLike, lists: ArrayLike) -> Metrics:
    """Every metric of rows; `people` and `lists` are the group of each row, all (R,)."""
    y, p, people, lists = np.asarray(labels), np.asarray(p, np.float64), np.asarray(people), np.asarray(lists)
    clicks = int(y.sum())
    return Metrics(
        rows=len(y),
        clicks=clicks,
        auc=auc(y, p),
        gauc=gauc(y, p, people),
        pair_accuracy=pair_accuracy(y, p, lists),
        logloss=logloss(y, p) if len(y) else None,
        normalised_entropy=normalised_entropy(y, p),
        pcoc=float(p.sum() / clicks) if clicks else None,
        ece=ece(y, p) if len(y) else None,
    )


def auc(labels: ArrayLike, p: ArrayLike) -> float | None:
    """Area under the ROC curve; ties count half. None with one label only."""
    from sklearn.metrics import roc_auc_score

    y = np.asarray(labels)
    return float(roc_auc_score(y, np.asarray(p))) if 0 < y.sum() < len(y) else None


def gauc(labels: ArrayLike, p: ArrayLike, groups: ArrayLike) -> float | None:
    """Mean AUC of the groups that have both labels, weighted by their rows."""
    right, pairs, sizes = _pairs(labels, p, groups)
    both = pairs > 0
    return float(np.average(right[both] / pairs[both], weights=sizes[both])) if both.any() else None


def pair_accuracy(labels: ArrayLike, p: ArrayLike, lists: ArrayLike) -> float | None:
    """Share of (clicked, not clicked) pairs of one list that are in the right order; ties count half."""
    right, pairs, _ = _pairs(labels, p, lists)
    return float(right.sum() / pairs.sum()) if pairs.sum() else None


def logloss(labels: ArrayLike, p: ArrayLike) -> float:
    """Mean of -[y log p + (1 - y) log(1 - p)]. GQR eq. 5."""
    y, p = np.asarray(labels, np.float64), np.clip(np.asarray(p, np.float64), _TINY, 1 - _TINY)
    return float(-np.mean(y * np.log(p) + (1 - y) * np.log1p(-p)))


def normalised_entropy(labels: ArrayLike, p: ArrayLike) -> float | None:
    """Logloss divided by the entropy of the click rate (He et al. 2014). None with one label only."""
    y = np.asarray(labels, np.float64)
    if not 0 < y.sum() < len(y):
        return None
    return logloss(y, p) / logloss(y, np.full(len(y), y.mean()))


def ece(labels: ArrayLike, p: ArrayLike, bins: int = BINS) -> float:
    """Expected calibration error: |predicted - real| click rate over bins of equal mass; equal values share a bin."""
    y, p = np.asarray(labels, np.float64), np.asarray(p, np.float64)
    return float(sum(abs(predicted - real) * rows for predicted, real, rows in reliability(y, p, bins)) / len(y))


def reliability(labels: ArrayLike, p: ArrayLike, bins: int = BINS) -> list[tuple[float, float, int]]:
    """(mean probability, click rate, rows) of each bin of equal mass that is not empty, in rising order."""
    y, p = np.asarray(labels, np.float64), np.asarray(p, np.float64)
    edges = np.quantile(p, np.arange(1, bins) / bins)
    number = np.searchsorted(edges, p, side="left")
    rows = np.bincount(number, minlength=bins)
    predicted, real = (np.bincount(number, each, minlength=bins) for each in (p, y))
    return [(float(predicted[b] / rows[b]), float(real[b] / rows[b]), int(rows[b])) for b in range(bins) if rows[b]]


def diff_ctr(p_theta: Sequence[float] | Floats, p_real: Sequence[float] | Floats) -> float:
    """Mean distance of real and predicted click ratios of K days, after the predictor's mean is set right. GQR eq. 9.

    Args:
        p_theta: mean predicted probability of the rows of each day (the paper's AEC of testing set i), (K,).
        p_real: share of those rows that were clicked, (K,).
    """
    theta, real = np.asarray(p_theta, np.float64), np.asarray(p_real, np.float64)
    return float(np.mean(np.abs(theta * real.mean() / theta.mean() - real)))


def _pairs(labels: ArrayLike, p: ArrayLike, groups: ArrayLike) -> tuple[Floats, Floats, Any]:
    """For each group: pairs in the right order (Mann-Whitney's U), all pairs, and rows."""
    _, group = np.unique(np.asarray(groups), return_inverse=True)
    order = np.lexsort((np.asarray(p), group))
    y, score, group = np.asarray(labels, np.float64)[order], np.asarray(p, np.float64)[order], group[order]
    sizes = np.bincount(group)
    differs = (score[1:] != score[:-1]) | (group[1:] != group[:-1])
    is_new = np.concatenate([[True], differs])[: len(score)]  # starts of runs of equal probabilities in one group
    begins = np.flatnonzero(is_new)
    run = np.cumsum(is_new) - 1
    length = np.diff(np.append(begins, len(score)))
    rank = begins[run] + (length[run] + 1) / 2  # mean rank of the run, from 1
    rank = rank - (np.cumsum(sizes) - sizes)[group]
    clicked = np.bincount(group, y, minlength=len(sizes))
    above = np.bincount(group, rank * y, minlength=len(sizes)) - clicked * (clicked + 1) / 2
    return above, clicked * (sizes - clicked), sizes
