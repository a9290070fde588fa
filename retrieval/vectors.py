"""Vectors of all queries of a build; those that an earlier build has encoded are not encoded again.

It knows nothing about mining or indexes.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retrieval.encoder import Encoder
from service.contract.progress import Report
from service.contract.query_text import match_key

_CHUNK = 8192


def encode_all(
    encoder: Encoder, ids: NDArray[np.int64], texts: list[str], cache: Path, report: Report
) -> tuple[NDArray[np.float32], int]:
    """Unit vectors (N, dimension) of `texts`, in their order, and how many of them were encoded now.

    `ids` (N,) are sorted. `cache`: file of this encoder's vectors from an earlier build, kept as float16. What no query
    of this build needs any more goes from it, so that a forgotten text leaves no vector behind.
    """
    known_ids, known = _read(cache, encoder.dimension)
    place = np.searchsorted(known_ids, ids)
    is_known = place < len(known_ids)
    is_known[is_known] = known_ids[place[is_known]] == ids[is_known]
    vectors = np.empty((len(ids), encoder.dimension), np.float32)
    vectors[is_known] = known[place[is_known]]
    missing = np.flatnonzero(~is_known)
    for start in range(0, len(missing), _CHUNK):
        rows = missing[start : start + _CHUNK]
        vectors[rows] = encoder.encode([match_key(texts[row]) for row in rows])
        report((start + len(rows)) / len(missing), {"queries": float(start + len(rows))})
    _write(cache, ids, vectors)
    return vectors, len(missing)


def _read(cache: Path, dimension: int) -> tuple[NDArray[np.int64], NDArray[np.float16]]:
    try:
        with np.load(cache) as kept:
            return kept["ids"], kept["vectors"]
    except (OSError, ValueError, KeyError):  # none yet, or one that was cut short: both are encoded again
        return np.empty(0, np.int64), np.empty((0, dimension), np.float16)


def _write(cache: Path, ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
    cache.parent.mkdir(parents=True, exist_ok=True)
    draft = cache.with_name(f".{cache.name}")
    with draft.open("wb") as file:
        np.savez(file, ids=ids, vectors=vectors.astype(np.float16))
    draft.replace(cache)
