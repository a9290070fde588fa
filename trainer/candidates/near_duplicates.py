"""Leaves out queries that say the same as another, by the cosine of their vectors.

It knows nothing about which model makes the vectors.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trainer.judges import Similar


def new_ones(
    asked: Sequence[tuple[Sequence[str], Sequence[str]]], similar: Similar, *, threshold: float
) -> list[list[bool]]:
    """For each (queries that are there, queries that may follow): which of the latter say something new.

    New is what stays below `threshold` with everything that is there, and with every earlier new one. All texts go to
    `similar` in one call.
    """
    texts = list(dict.fromkeys(text for there, following in asked for text in (*there, *following)))
    if not texts:
        return [[] for _ in asked]
    vectors = dict(zip(texts, similar.vectors(texts), strict=True))
    return [_new(there, following, vectors, threshold) for there, following in asked]


def _new(
    there: Sequence[str], following: Sequence[str], vectors: dict[str, NDArray[np.float32]], threshold: float
) -> list[bool]:
    seen = [vectors[text] for text in there]
    found = []
    for text in following:
        found.append(not seen or float(np.max(np.stack(seen) @ vectors[text])) < threshold)
        if found[-1]:
            seen.append(vectors[text])
    return found
