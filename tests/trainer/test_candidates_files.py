"""A search lies on disk shard by shard: a killed one goes on, another one is refused, and Ray finds the same."""

import errno
import json
import os
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from service.contract.errors import ArtifactError, ConfigurationError
from service.contract.types import EventSource, HistoryEvent, PromptContext
from tests.trainer.known_policy import KnownEngine, KnownPredictor, known_policy, words_of_topic
from trainer.candidates import CandidateSearch, SearchConfig, identity_of, read_candidates
from trainer.prompts import prompt_of

CONFIG = SearchConfig(near_duplicate=None, beams=2, expansions=4, random_lists=6, rejected=2)
PROMPTS = [prompt_of("suggest", PromptContext(n=3, query=f"topic {number}")) for number in range(5)]
ROOT = Path(__file__).parents[2]


def search(engine: KnownEngine | None = None, config: SearchConfig = CONFIG) -> CandidateSearch:
    return CandidateSearch(known_policy(), engine or KnownEngine(words_of_topic), KnownPredictor(), config)


async def test_a_search_on_disk_finds_what_one_in_memory_does(tmp_path):
    told = []

    report = await search().search_to(
        tmp_path / "found", PROMPTS, shard_size=2, report=lambda done, figures: told.append((done, figures))
    )

    assert read_candidates(tmp_path / "found") == await search().search(PROMPTS)
    assert sorted(path.name for path in (tmp_path / "found").iterdir()) == [
        "search.json",
        *(f"shard-0000{number}.parquet" for number in range(3)),
    ]
    assert report.prompts == 5
    assert [done for done, _ in told] == pytest.approx([1 / 3, 2 / 3, 1])
    assert told[-1][1]["lists_per_s"] > 0


async def test_everything_of_a_prompt_is_kept(tmp_path):
    history = (HistoryEvent(source=EventSource.PURCHASE, text="pan"),)
    context = PromptContext(
        n=2, query="rice", session=("pot",), history=history, answer="Rinse.", documents=("d",), co_queries=("wok",)
    )
    texts = "guide: which tone?\nprefix: write\nsuffix:\n"
    written = ["shorter", "caf\u00e9", "longer"]
    engine = KnownEngine(
        lambda query, so_far, _: [
            "<sep>".join(written[so_far.count("<sep>") :]) if so_far else f"{texts}shorter<sep>in rhyme"
        ]
    )

    await search(engine).search_to(tmp_path, [prompt_of("snippets", context)])

    (found,) = read_candidates(tmp_path)
    assert found.prompt == prompt_of("snippets", context)
    assert found.chosen[0].texts == {"guide": "which tone?", "prefix": "write", "suffix": ""}
    assert found.chosen[0].queries == ("shorter", "caf\u00e9")
    assert (await search(engine).search([found.prompt])) == [found]


async def test_a_killed_search_goes_on_with_the_shards_that_are_missing(tmp_path):
    killed = KnownEngine(words_of_topic)
    killed.fail_after = 18  # a prompt takes 6: its random lists, one empty list, then two beams twice

    with pytest.raises(RuntimeError, match="killed"):
        await search(killed).search_to(tmp_path / "found", PROMPTS, shard_size=1)
    left = sorted((tmp_path / "found").glob("shard-*"))
    before = {path: path.stat().st_mtime_ns for path in left}
    engine = KnownEngine(words_of_topic)
    await search(engine).search_to(tmp_path / "found", PROMPTS, shard_size=1)

    assert 0 < len(left) < 5
    assert len({query for query, _, _ in engine.asked}) == 5 - len(left)
    assert {path: path.stat().st_mtime_ns for path in left} == before
    assert read_candidates(tmp_path / "found") == await search().search(PROMPTS)


async def test_a_finished_search_asks_nothing(tmp_path):
    await search().search_to(tmp_path, PROMPTS)
    engine = KnownEngine(words_of_topic)

    await search(engine).search_to(tmp_path, PROMPTS)

    assert engine.asked == []


async def test_while_one_shard_is_scored_the_engine_writes_for_another(tmp_path):
    engine = KnownEngine(words_of_topic)

    await search(engine).search_to(tmp_path, PROMPTS, shard_size=1)

    assert engine.most_in_flight > 2  # a shard of one prompt has at most its two beams in flight


@pytest.mark.parametrize("changed", ["seed", "prompts", "shard_size"])
async def test_another_search_in_the_same_place_is_refused(tmp_path, changed):
    await search().search_to(tmp_path, PROMPTS, shard_size=2)

    other = search(config=replace(CONFIG, seed=9)) if changed == "seed" else search()
    with pytest.raises(ConfigurationError, match="another search"):
        await other.search_to(
            tmp_path, PROMPTS[1:] if changed == "prompts" else PROMPTS, shard_size=3 if changed == "shard_size" else 2
        )


async def test_a_full_disk_is_a_clear_stop_and_leaves_no_half_of_a_file(tmp_path, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    await search().search_to(tmp_path, PROMPTS, shard_size=5)
    (tmp_path / "shard-00000.parquet").unlink()
    monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(ConfigurationError, match="No space left"):
        await search().search_to(tmp_path, PROMPTS, shard_size=5)

    assert [path.name for path in tmp_path.iterdir()] == ["search.json"]


async def test_an_unfinished_or_damaged_search_is_not_read(tmp_path):
    with pytest.raises(ArtifactError, match="no candidate search"):
        read_candidates(tmp_path)
    await search().search_to(tmp_path, PROMPTS, shard_size=2)
    whole = (tmp_path / "shard-00001.parquet").read_bytes()
    (tmp_path / "shard-00001.parquet").write_bytes(whole[:-50])

    with pytest.raises(ArtifactError, match="cannot be read"):
        read_candidates(tmp_path)
    (tmp_path / "shard-00001.parquet").unlink()
    with pytest.raises(ArtifactError, match="was not finished"):
        read_candidates(tmp_path)


async def test_the_columns_are_plain(tmp_path):
    await search().search_to(tmp_path, PROMPTS)

    table = pq.read_table(tmp_path / "shard-00000.parquet")

    assert table.column_names == ["prompt_id", "task", "n", "query", "context", "chosen", "rejected"]
    assert json.loads(table["context"][0].as_py())["session"] == []
    assert set(table["chosen"][0].as_py()[0]) == {"queries", "texts", "reward", "response", "tokens"}


@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed; the extra `cluster` brings it.")
@pytest.mark.timeout(300)
@pytest.mark.slow
def test_ray_actors_find_the_same(tmp_path, monkeypatch):
    import asyncio

    import ray

    from trainer.candidates.on_ray import search_with_ray

    async def make() -> CandidateSearch:
        from tests.trainer.test_candidates_files import search

        return search()

    identity = identity_of(known_policy(), KnownPredictor(), CONFIG)
    asyncio.run(search().search_to(tmp_path / "here", PROMPTS, shard_size=2))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    ray.init(num_cpus=2, include_dashboard=False, logging_level="error")
    try:
        search_with_ray(tmp_path / "there", PROMPTS, make, identity, actors=2, shard_size=2)
        (tmp_path / "there" / "shard-00001.parquet").unlink()
        search_with_ray(tmp_path / "there", PROMPTS, make, identity, actors=2, shard_size=2)  # goes on
    finally:
        ray.shutdown()

    assert read_candidates(tmp_path / "there") == read_candidates(tmp_path / "here")
    assert asyncio.run(search().search_to(tmp_path / "there", PROMPTS, shard_size=2)).prompts == 0  # the same search
