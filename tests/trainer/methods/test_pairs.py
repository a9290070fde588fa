"""Pairs as token ids, exactly as serving would make them."""

import json

import pyarrow
import pyarrow.parquet
import pytest

from service.contract.errors import ArtifactError
from service.contract.tasks import get_task
from service.contract.types import EventSource, HistoryEvent, PromptContext
from tests.trainer.methods.conftest import pair_rows, write_pairs
from trainer.candidates.scored_lists import ScoredList
from trainer.methods.pairs import read_pairs
from trainer.preferences import Pair
from trainer.preferences import write_pairs as write_made_pairs
from trainer.prompts import prompt_of


def test_a_pair_has_the_ids_that_serving_would_render(base_policy, tmp_path):
    context = {
        "n": 3,
        "query": "brown rice",
        "session": ["rice", "rice cooker"],
        "history": [{"source": "purchase", "text": "rice cooker", "at": "2026-11-21T10:00:00+00:00"}],
        "answer": "Brown rice is whole-grain rice.",
        "documents": ["Rice is a seed."],
        "co_queries": ["how long to cook brown rice"],
    }
    row = {**pair_rows(base_policy, 2)[0], "context": json.dumps(context), "chosen": "a<sep>b<sep>c", "rejected": "d"}
    tokenizer = base_policy.tokenizer

    (pair,), too_long = read_pairs(write_pairs(tmp_path / "pairs", [row]), tokenizer, 1024)

    expected = PromptContext(
        n=3,
        query="brown rice",
        session=("rice", "rice cooker"),
        history=(HistoryEvent(source=EventSource.PURCHASE, text="rice cooker"),),
        answer="Brown rice is whole-grain rice.",
        documents=("Rice is a seed.",),
        co_queries=("how long to cook brown rice",),
    )
    separator, end = tokenizer.separator_ids[0], tokenizer.eos_ids[0]
    assert pair.prompt == get_task("suggest").render(expected, tokenizer, budget=512).token_ids
    assert pair.chosen == (
        *tokenizer.encode("a"),
        separator,
        *tokenizer.encode("b"),
        separator,
        *tokenizer.encode("c"),
        end,
    )
    assert pair.rejected == (*tokenizer.encode("d"), end)
    assert too_long == 0


def test_a_file_of_the_preference_stage_is_read(base_policy, tmp_path):
    context = PromptContext(n=2, query="kyoto", co_queries=("kyoto in autumn",))
    lists = [
        ScoredList(queries=q, texts={}, reward=0.2, response="<sep>".join(q), tokens=5)
        for q in (("a", "b"), ("c", "d"))
    ]
    made = Pair(prompt=prompt_of("suggest", context), chosen=lists[0], rejected=lists[1])
    write_made_pairs([made], tmp_path / "pairs.parquet")

    (pair,), _ = read_pairs(tmp_path / "pairs.parquet", base_policy.tokenizer, 1024)

    assert pair.prompt == get_task("suggest").render(context, base_policy.tokenizer, budget=512).token_ids
    assert pair.chosen == tuple(base_policy.tokenizer.encode_response("a<sep>b"))
    assert pair.rejected == tuple(base_policy.tokenizer.encode_response("c<sep>d"))


def test_a_pair_that_does_not_fit_is_left_out_and_counted(base_policy, pairs):
    everything, _ = read_pairs(pairs, base_policy.tokenizer, 1024)
    limit = sorted(map(len, everything))[len(everything) // 2]

    kept, too_long = read_pairs(pairs, base_policy.tokenizer, limit)

    assert kept == [pair for pair in everything if len(pair) <= limit]
    assert 0 < too_long == len(everything) - len(kept)


def test_no_pair_that_fits_is_an_error(base_policy, pairs):
    with pytest.raises(ArtifactError, match="no pair to train on"):
        read_pairs(pairs, base_policy.tokenizer, 5)


@pytest.mark.parametrize("content", [b"", b"PAR1 cut off"])
def test_a_damaged_file_is_an_error(base_policy, tmp_path, content):
    (tmp_path / "pairs").write_bytes(content)

    with pytest.raises(ArtifactError, match="cannot be read"):
        read_pairs(tmp_path / "pairs", base_policy.tokenizer, 1024)


def test_a_file_of_something_else_is_an_error(base_policy, tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"prompt_id": ["a"]}), tmp_path / "other")

    with pytest.raises(ArtifactError, match="lacks task, context, chosen, rejected"):
        read_pairs(tmp_path / "other", base_policy.tokenizer, 1024)


@pytest.mark.parametrize("context", ["{}", "no JSON", "[1]"])
def test_a_pair_without_a_context_is_named(base_policy, tmp_path, context):
    rows = [
        {**row, "context": row["context"] if k == 0 else context} for k, row in enumerate(pair_rows(base_policy, 2))
    ]

    with pytest.raises(ArtifactError, match="context of pair 2"):
        read_pairs(write_pairs(tmp_path / "pairs", rows), base_policy.tokenizer, 1024)
