"""How well a reward model knows what a judge would say, on rows that it has not seen: AUC, accuracy, calibration.

It knows nothing about training. Both levels are measured on the same rows, by the same names.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from trainer.token_reward.model import RewardModel, scores
from trainer.token_reward.rows import RewardRow

_BINS = 10
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """What a model says of rows.

    `of_tokens`: probability that a token of a word is relevant, given that it is of a word, over all rows, (W,); empty at
    sentence level. `tokens`: whether it is, (W,). `of_rows`: score of each response, (N,). `wholes`: whether it is
    relevant, (N,).
    """

    of_tokens: Floats
    tokens: NDArray[np.bool_]
    of_rows: Floats
    wholes: NDArray[np.bool_]


def scored(model: RewardModel, rows: Sequence[RewardRow]) -> Scored:
    """The scores of `rows`; at token level that of a response is the mean over its word tokens, of which none earns .5."""
    found = scores(model, [row.prompt for row in rows], [row.response for row in rows])
    wholes = np.array([row.whole for row in rows])
    if model.properties.level == "sentence":
        empty = np.array([])
        return Scored(
            of_tokens=empty, tokens=empty.astype(bool), of_rows=np.array([float(p) for p in found]), wholes=wholes
        )
    of_tokens, tokens, of_rows = [], [], []
    for row, probabilities in zip(rows, found, strict=True):
        p = probabilities.double().numpy()
        relevance = p[:, 2] / np.maximum(p[:, 1] + p[:, 2], 1e-9)
        weight = p[:, 1] + p[:, 2]  # how sure it is that there is a word; what is one is not given to it
        of_rows.append(float((relevance * weight).sum() / weight.sum()) if weight.sum() > 1e-6 else 0.5)
        classes = np.array(row.classes)
        of_tokens.append(relevance[classes > 0])
        tokens.append(classes[classes > 0] == 2)
    return Scored(
        of_tokens=np.concatenate(of_tokens), tokens=np.concatenate(tokens), of_rows=np.array(of_rows), wholes=wholes
    )


def figures(found: Scored) -> dict[str, float]:
    """AUC of tokens and of responses, accuracy of responses at the best threshold of half of them, calibration errors.

    An AUC is left out where all are alike.
    """
    told: dict[str, float] = {}
    if len(found.of_tokens) and _differ(found.tokens):
        told["token_auc"] = float(roc_auc_score(found.tokens, found.of_tokens))
        told["token_ece"] = calibration_error(found.of_tokens, found.tokens)
    if _differ(found.wholes):
        told["sentence_auc"] = float(roc_auc_score(found.wholes, found.of_rows))
        told["sentence_accuracy"] = _accuracy(found.of_rows, found.wholes)
        told["sentence_ece"] = calibration_error(found.of_rows, found.wholes)
    return told


def calibration_error(p: Floats, true: NDArray[np.bool_]) -> float:
    """Expected calibration error over ten bins of equal width: |mean p - share of true|, weighted by size."""
    return sum(abs(mean - share) * count for mean, share, count in reliability(p, true)) / max(1, len(p))


def reliability(p: Floats, true: NDArray[np.bool_]) -> list[tuple[float, float, int]]:
    """For each bin that has any: mean p, share of true, and how many."""
    bins = np.minimum((p * _BINS).astype(int), _BINS - 1)
    return [
        (float(p[bins == k].mean()), float(true[bins == k].mean()), int((bins == k).sum())) for k in np.unique(bins)
    ]


def _accuracy(p: Floats, true: NDArray[np.bool_]) -> float:
    """Share judged right in each half of the rows by the threshold that is best in the other half."""
    even = np.arange(len(p)) % 2 == 0
    right = 0
    for chosen, judged in ((even, ~even), (~even, even)):
        limits = np.unique(p[chosen])
        best = max(limits, key=lambda limit: int(((p[chosen] >= limit) == true[chosen]).sum())) if len(limits) else 0.5
        right += int(((p[judged] >= best) == true[judged]).sum())
    return right / max(1, len(p))


def _differ(values: NDArray[np.bool_]) -> bool:
    return bool(values.any() and not values.all())
