"""The index gives the nearest queries, of whatever kind it is."""

from pathlib import Path

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray

from retrieval import index as module
from retrieval.index import QueryIndex, build_index, kind_for
from service.contract.errors import ArtifactError


def unit_vectors(count: int, *, dimension: int = 192, seed: int = 0) -> NDArray[np.float32]:
    """Random directions around a few centres, as queries lie around topics."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(20, dimension))
    drawn = centres[rng.integers(20, size=count)] + rng.normal(size=(count, dimension))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def ids_of(count: int) -> NDArray[np.int64]:
    """Ids as queries have them: any 64-bit number."""
    return np.random.default_rng(9).integers(-(2**63), 2**63 - 1, size=count)


def test_the_kind_follows_the_number_of_queries() -> None:
    kinds = [kind_for(count, 384, on_gpu=False) for count in (0, 20_000, 20_001, 4_000_000, 4_000_001)]

    flat, graph, quantised = "IDMap2,Flat", "IDMap2,HNSW16_SQ8", "IDMap2,IVF8000,PQ96x4fs,Refine(SQ8)"
    assert kinds == [flat, flat, graph, graph, quantised]
    assert kind_for(1_000_000, 384, on_gpu=True) == flat
    assert kind_for(30_000_000, 384, on_gpu=True) == "IVF21908,SQ8"


@pytest.mark.parametrize(("kind", "least_recall"), [("flat", 1.0), ("graph", 0.9), ("quantised", 0.7)])
def test_the_nearest_are_found(kind: str, least_recall: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_FLAT", 10_000 if kind == "flat" else 10)
    monkeypatch.setattr(module, "_MOST_GRAPH", 10_000 if kind == "graph" else 11)
    vectors, ids = unit_vectors(4000), ids_of(4000)

    built = build_index(ids, vectors, tmp_path / "index.faiss")
    found = QueryIndex.load(tmp_path / "index.faiss").nearest(vectors[:50], 10)

    assert {"flat": "Flat", "graph": "HNSW", "quantised": "PQ"}[kind] in built
    true = np.argsort(-(vectors[:50] @ vectors.T), axis=1)[:, :10]
    recall = np.mean([len({i for i, _ in row} & set(ids[best])) / 10 for row, best in zip(found, true, strict=True)])
    assert recall >= least_recall
    if kind == "flat":
        assert [row[0][0] for row in found] == list(ids[:50])
    assert np.mean([row[0][1] for row in found]) == pytest.approx(1.0, abs=0.02)
    assert all(row == sorted(row, key=lambda each: -each[1]) for row in found)


def test_an_index_of_nothing_finds_nothing(tmp_path: Path) -> None:
    build_index(np.empty(0, np.int64), np.empty((0, 8), np.float32), tmp_path / "index.faiss")

    index = QueryIndex.load(tmp_path / "index.faiss")

    assert (index.count, index.dimension) == (0, 8)
    assert index.nearest(np.ones((2, 8), np.float32), 3) == [[], []]


def test_fewer_queries_than_asked_for_are_all_found(tmp_path: Path) -> None:
    build_index(ids_of(2), unit_vectors(2), tmp_path / "index.faiss")

    (found,) = QueryIndex.load(tmp_path / "index.faiss").nearest(unit_vectors(1), 10)

    assert {i for i, _ in found} == set(ids_of(2).tolist())


def test_a_file_that_is_no_index_is_refused(tmp_path: Path) -> None:
    (tmp_path / "index.faiss").write_bytes(b"no index")

    with pytest.raises(ArtifactError, match="retrieval build"):
        QueryIndex.load(tmp_path / "index.faiss")


def test_what_a_gpu_would_do_is_left_to_faiss_where_there_is_none() -> None:
    plain = faiss.index_factory(8, "Flat", faiss.METRIC_INNER_PRODUCT)

    assert module._on_gpu(plain) is plain or faiss.get_num_gpus() > 0
