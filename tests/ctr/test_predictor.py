"""The door: scores are those of the model whatever the batch, remembered, calibrated, and refused when damaged."""

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer

from ctr import score
from ctr.build import Build
from ctr.predictor import Predictor, open_predictor
from service.contract.artifact import MANIFEST, seal, verify
from service.contract.errors import ArtifactError
from service.contract.types import PromptContext

CONTEXT = PromptContext(n=3, query="about rice")
LIST = ["rice recipe", "tea history", "rice near me"]


@pytest.fixture
def predictor(built: Build) -> Predictor:
    """A freshly opened predictor, which remembers nothing yet."""
    return open_predictor(built.directory)


@pytest.fixture
def copied(built: Build, tmp_path: Path) -> Path:
    """A copy of the published predictor, to be damaged."""
    return Path(shutil.copytree(built.directory, tmp_path / "copy"))


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each call of the model's scoring had."""
    calls: list[int] = []
    original = score.score_rows

    def count(model: Any, lists: Any, first: Any, position: Any, layout: Any) -> Any:
        calls.append(len(position))
        return original(model, lists, first, position, layout)

    monkeypatch.setattr(score, "score_rows", count)
    return calls


def test_a_list_gets_one_probability_a_query(predictor):
    p = predictor.p_click(CONTEXT, LIST)

    assert p.shape == (3,)
    assert ((p > 0) & (p < 1)).all()
    assert p[0] > p[1]  # recipes are clicked most, history least
    assert predictor.p_click(CONTEXT, []).shape == (0,)


def test_many_lists_at_once_score_as_one_by_one(built, predictor):
    lists = [(PromptContext(n=3, query=f"about {topic}"), LIST[:n]) for topic in ("tea", "rice") for n in (1, 2, 3, 0)]

    together = predictor.p_click_lists(lists)

    alone = open_predictor(built.directory)
    for (context, queries), p in zip(lists, together, strict=True):
        assert p.shape == (len(queries),)
        for k in range(len(queries)):
            assert abs(p[k] - alone.score_next(context, queries[:k], [queries[k]])[0]) <= 1e-5
    assert predictor.p_click_lists([]) == []


def test_the_next_queries_of_a_beam_score_as_in_their_lists(built, predictor):
    found = predictor.score_next(CONTEXT, LIST[:2], ["rice near me", "cake price"])
    by_beam = predictor.score_beams(CONTEXT, [(LIST[:2], ["rice near me"]), ([], ["rice recipe", "tea history"])])

    other = open_predictor(built.directory)
    assert found[0] == pytest.approx(other.p_click(CONTEXT, LIST)[2], abs=1e-5)
    assert found[1] == pytest.approx(other.p_click(CONTEXT, [*LIST[:2], "cake price"])[2], abs=1e-5)
    assert by_beam[0][0] == found[0]
    assert by_beam[1] == pytest.approx([other.score_next(CONTEXT, [], [text])[0] for text in LIST[:2]], abs=1e-5)


def test_a_round_of_many_contexts_scores_each_in_its_own_and_in_one_batch(built, predictor, scored):
    tea = PromptContext(n=3, query="about tea")

    by_beam = predictor.score_round([(CONTEXT, LIST[:2], ["cake price"]), (tea, [], []), (tea, LIST[:1], LIST[1:])])

    other = open_predictor(built.directory)
    assert scored == [3]
    assert [p.shape for p in by_beam] == [(1,), (0,), (2,)]
    assert by_beam[0] == pytest.approx(other.score_next(CONTEXT, LIST[:2], ["cake price"]), abs=1e-5)
    assert by_beam[2] == pytest.approx(other.score_next(tea, LIST[:1], LIST[1:]), abs=1e-5)
    assert predictor.score_round([]) == []


def test_each_row_is_scored_once(predictor, scored):
    predictor.p_click_lists([(CONTEXT, LIST), (CONTEXT, LIST), (CONTEXT, LIST[:2])])
    predictor.score_next(CONTEXT, LIST[:2], [LIST[2], "cake price"])

    assert scored == [3, 1]


def test_only_the_latest_scores_are_remembered(built, scored):
    predictor = open_predictor(built.directory, cached=2)

    for query in ("tea", "rice", "tea", "cake", "tea", "rice"):
        predictor.p_click(CONTEXT, [query])

    assert scored == [1, 1, 1, 1]  # tea, rice, cake, and rice again, which was the least recently used


def test_positions_beyond_those_trained_are_scored(predictor):
    p = predictor.p_click(CONTEXT, [f"rice recipe {number}" for number in range(15)])

    assert np.isfinite(p).all()


def test_many_threads_get_the_scores_of_one(built, predictor):
    lists = [(CONTEXT, [f"{topic} recipe", "tea price"]) for topic in ("rice", "tea", "cake", "soup")] * 4
    found: dict[int, Any] = {}
    threads = [
        threading.Thread(target=lambda n=n, one=one: found.update({n: predictor.p_click(*one)}))
        for n, one in enumerate(lists)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    expected = open_predictor(built.directory).p_click_lists(lists)
    assert all(np.abs(found[number] - p).max() <= 1e-5 for number, p in enumerate(expected))


def test_the_directory_is_one_of_hugging_face(built):
    model = AutoModel.from_pretrained(built.directory)
    tokenizer = AutoTokenizer.from_pretrained(built.directory)

    assert model.config.variant == "ctx"
    assert tokenizer.tokenize("rice recipe") == ["rice", "recipe"]
    assert (built.directory / "README.md").read_text().startswith("---\nlibrary_name: transformers")


def reseal(directory: Path) -> None:
    manifest = json.loads((directory / MANIFEST).read_text())
    manifest.pop("files")
    seal(directory, manifest)


def test_an_altered_file_is_refused(copied):
    path = copied / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")

    with pytest.raises(ArtifactError, match="not the file that was published"):
        open_predictor(copied)


def test_the_tokenizer_of_another_predictor_is_refused(copied):
    path = copied / "tokenizer.json"
    path.write_text(path.read_text().replace('"rice":', '"ricx":'))
    reseal(copied)

    with pytest.raises(ArtifactError, match="was trained with tokenizer"):
        open_predictor(copied)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_no_number_is_refused(copied, value):
    weights = load_file(copied / "model.safetensors")
    weights["mlp.0.weight"][3, 3] = value
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    reseal(copied)

    with pytest.raises(ArtifactError, match=r"NaN or infinity in mlp\.0\.weight"):
        open_predictor(copied)


def test_missing_weights_are_refused(copied):
    weights = load_file(copied / "model.safetensors")
    del weights["domain_embeddings.weight"]
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    reseal(copied)

    with pytest.raises(ArtifactError, match=r"lacks the weights domain_embeddings\.weight"):
        open_predictor(copied)


def test_another_kind_of_directory_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    seal(tmp_path, {"kind": "cor"})

    with pytest.raises(ArtifactError, match="is no click predictor"):
        open_predictor(tmp_path)


def test_a_score_is_the_calibrated_logit_with_sampling_undone(built, predictor, tokenizer):
    from ctr.features import Variant, compose, layout_for, lists_of, tokenize
    from ctr.model import ClickModel

    model = ClickModel.from_pretrained(built.directory).eval()
    lists = lists_of([tokenize(tokenizer, [CONTEXT.query, *LIST])])
    batch = compose(lists, np.array([0]), np.array([2]), layout_for(tokenizer, Variant.CTX, 3))
    with torch.inference_mode():
        logit = model(*score.to_tensors(batch, "cpu")).item()
    platt = verify(built.directory)["calibration"]

    # Training kept half of the lists without a click.
    expected = 1 / (1 + np.exp(-(platt["slope"] * (logit + np.log(0.5)) + platt["offset"])))

    assert model.config.keep_share == 0.5
    assert predictor.p_click(CONTEXT, LIST)[1] == pytest.approx(expected, rel=1e-5)
