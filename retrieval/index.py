"""The index of logged queries: nearest neighbours by FAISS, of a kind that fits their number.

It knows nothing about texts: ids go in with vectors, and come out with similarities.
"""

import math
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from service.contract.errors import ArtifactError

_MOST_FLAT = 20_000  # below, comparing with every vector takes under a millisecond
_MOST_GRAPH = 4_000_000  # above, the vectors themselves are too many for memory
_MOST_FLAT_ON_GPU = 20_000_000  # a GPU compares with all of them in milliseconds
GRAPH = _LINKS, _CONSTRUCTION, _SEARCH = 16, 120, 300
_PROBED_SHARE, _PROBED_LEAST = 0.02, 32
_REFINED = 4.0  # times as many as asked for are compared again with byte-sized vectors
_TRAINING_ROWS_A_LIST = 40  # FAISS asks for 39 at least


class QueryIndex:
    """An index that is ready to be searched. `count` vectors of `dimension`."""

    def __init__(self, index: Any) -> None:
        self._index = _on_gpu(index)
        self.count, self.dimension = int(index.ntotal), int(index.d)

    def nearest(self, vectors: NDArray[np.float32], k: int) -> list[list[tuple[int, float]]]:
        """Ids and cosine similarities of the `k` nearest of each row of `vectors` (N, dimension), nearest first."""
        if not self.count:
            return [[] for _ in vectors]
        similarities, ids = self._index.search(vectors, min(k, self.count))
        return [
            [(int(i), float(s)) for i, s in zip(row, near, strict=True) if i != -1]
            for row, near in zip(ids, similarities, strict=True)
        ]

    @classmethod
    def load(cls, path: Path) -> "QueryIndex":
        """Read an index that `build_index` wrote.

        Raises:
            ArtifactError: It is no index.
        """
        try:
            return cls(faiss.read_index(str(path)))
        except RuntimeError:
            raise ArtifactError(f"{path} is no index. Build it again: `nextquery retrieval build`.") from None


def build_index(ids: NDArray[np.int64], vectors: NDArray[np.float32], path: Path) -> str:
    """Write an index of unit `vectors` (N, d) under `ids` (N,); returns its kind, as FAISS's factory names it."""
    count, dimension = vectors.shape
    kind = kind_for(count, dimension, on_gpu=_gpus() > 0)
    index: Any = faiss.index_factory(dimension, kind, faiss.METRIC_INNER_PRODUCT)
    inner: Any = faiss.downcast_index(index.index) if "IDMap2" in kind else index
    if "HNSW" in kind:
        inner.hnsw.efConstruction, inner.hnsw.efSearch = _CONSTRUCTION, _SEARCH
    if "Refine" in kind:
        inner.k_factor, inner = _REFINED, inner.base_index
    if "IVF" in kind:
        faiss.extract_index_ivf(inner).nprobe = max(_PROBED_LEAST, round(_lists(count) * _PROBED_SHARE))
    if not index.is_trained:
        sample = np.random.default_rng(0).permutation(count)[: _TRAINING_ROWS_A_LIST * max(256, _lists(count))]
        index.train(vectors[np.sort(sample)])
    if count:
        index.add_with_ids(vectors, ids)
    faiss.write_index(index, str(path))
    return kind


def kind_for(count: int, dimension: int, *, on_gpu: bool) -> str:
    """The kind of index for so many vectors: all compared, a graph of byte-sized vectors, or product quantisation.

    Quantised ones are compared again by their byte-sized vectors. A graph cannot be searched on a GPU, and need not be:
    that compares with all of them, up to many more.
    """
    if on_gpu:
        return "IDMap2,Flat" if count <= _MOST_FLAT_ON_GPU else f"IVF{_lists(count)},SQ8"
    if count <= _MOST_FLAT:
        return "IDMap2,Flat"
    if count <= _MOST_GRAPH:
        return f"IDMap2,HNSW{_LINKS}_SQ8"
    return f"IDMap2,IVF{_lists(count)},PQ{dimension // 4}x4fs,Refine(SQ8)"


def _lists(count: int) -> int:
    return max(1, 4 * math.isqrt(count))


def _gpus() -> int:
    return int(getattr(faiss, "get_num_gpus", int)())


def _on_gpu(index: Any) -> Any:
    """The same index on the GPU, where FAISS and the machine have one and the kind can be searched there."""
    if not _gpus():
        return index
    try:
        return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)
    except RuntimeError:  # a graph, built where there was no GPU
        return index
