"""A build is whole, the same for the same log, private, and refused when it is damaged."""

import asyncio
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from retrieval.build import Build
from retrieval.dictionaries.mapped import MappedDictionary, write_dictionary
from retrieval.publish import promote, put_into_redis
from retrieval.searcher import Searcher, SearchRule, open_searcher
from service.contract import registry
from service.contract.artifact import MANIFEST, seal, verify
from service.contract.errors import ArtifactError, RetrievalError
from tests.redis_server import own_redis
from tests.retrieval.mining.logs import snapshot
from tests.retrieval.small_world import SECRET, small_build, small_log

RULE = SearchRule(n=3, neighbours=10, floor=0.5, most=10)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """One build of the small log."""
    return small_build(tmp_path_factory.mktemp("built"))


async def found(searcher: Searcher, typed: str) -> list[tuple[str, str]]:
    return [(each.text, each.source) for each in (await searcher.search(typed, timeout_s=30)).queries]


async def test_what_people_typed_next_is_found(built: Build) -> None:
    searcher = await open_searcher(built.directory, RULE)

    candidates = await found(searcher, "How to cook RICE?")

    assert candidates[0] == ("rice calories", "exact")
    await searcher.close()


async def test_a_query_that_nobody_typed_gets_what_followed_similar_ones(built: Build) -> None:
    searcher = await open_searcher(built.directory, RULE)

    candidates = await found(searcher, "cooking rice")

    assert candidates[0] == ("rice calories", "semantic")
    await searcher.close()


async def test_what_one_person_typed_is_never_shown_to_others(built: Build) -> None:
    searcher = await open_searcher(built.directory, replace(RULE, floor=-1.0, neighbours=100, most=100))

    shown = {text for typed in ("how to cook rice", SECRET, "bob") for text, _ in await found(searcher, typed)}

    assert shown
    assert SECRET not in shown
    files = [path for path in built.directory.rglob("*") if path.is_file()]
    assert not [path.name for path in files if SECRET.encode() in path.read_bytes()]
    await searcher.close()


def test_the_manifest_says_what_it_was_built_from_and_what_it_measured(built: Build) -> None:
    manifest = verify(built.directory)

    assert manifest["kind"] == "cor"
    assert manifest["version"] == built.version == built.directory.name
    assert manifest["queries"] == 18 + 1  # three a topic, and the secret, which something follows
    assert manifest["known_queries"] == 6 + 6 + 1  # nothing follows a recipe, but for the secret's
    assert manifest["k"] == 3
    methods = manifest["evaluation"]["methods"]
    assert methods["cor"]["hit10"] == 1.0  # what follows in this log always follows
    assert methods["cor"]["hit10_unseen"] is None  # nobody was held out who typed something new
    assert methods["popularity"]["hit1"] < 1.0


def test_the_same_log_gives_the_same_build_and_another_log_another(built: Build, tmp_path: Path) -> None:
    place = built.directory.parents[1]
    again = small_build(place)

    other = small_build(tmp_path, log=snapshot(tmp_path / "other", small_log()[:-6]))

    assert (again.version, again.is_new) == (built.version, False)
    assert other.version != built.version


def test_only_new_queries_are_encoded_again(tmp_path: Path) -> None:
    first = small_build(tmp_path, log=snapshot(tmp_path / "before", small_log()[:90]))

    second = small_build(tmp_path, log=snapshot(tmp_path / "after", small_log()))

    assert second.manifest["queries"] > first.manifest["queries"]
    assert second.manifest["encoded_now"] < second.manifest["queries"] / 2


@pytest.mark.parametrize("log", [[], small_log()[:1]], ids=["empty", "one query"])
async def test_a_log_of_nothing_gives_a_build_that_finds_nothing(tmp_path: Path, log: list[Any]) -> None:
    built = await asyncio.to_thread(small_build, tmp_path, log=snapshot(tmp_path / "log", log))

    searcher = await open_searcher(built.directory, RULE)

    assert built.manifest["queries"] == 0
    assert await found(searcher, "how to cook rice") == []
    await searcher.close()


def copy_of(built: Build, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built.directory, tmp_path / built.version))


@pytest.mark.parametrize("file", ["index.faiss", "dictionary.lmdb", "encoder/model.safetensors", MANIFEST])
@pytest.mark.parametrize("harm", ["flipped", "cut short", "missing"])
async def test_a_damaged_build_is_refused(built: Build, tmp_path: Path, file: str, harm: str) -> None:
    directory = copy_of(built, tmp_path)
    content = bytearray((directory / file).read_bytes())
    middle = len(content) // 2
    (directory / file).unlink()
    if harm == "flipped":
        content[middle] ^= 1
        (directory / file).write_bytes(content)
    elif harm == "cut short":
        (directory / file).write_bytes(content[:middle])

    if (file, harm) == (MANIFEST, "flipped"):  # its own hash is in the registry, which promotion compares
        return
    with pytest.raises(ArtifactError):
        await open_searcher(directory, RULE)


async def test_a_dictionary_and_an_index_of_different_builds_are_refused(built: Build, tmp_path: Path) -> None:
    directory = copy_of(built, tmp_path)
    manifest = json.loads((directory / MANIFEST).read_text())
    (directory / "dictionary.lmdb").unlink()
    write_dictionary(directory / "dictionary.lmdb", "cor-of-yesterday", [])
    seal(directory, {key: value for key, value in manifest.items() if key != "files"})

    with pytest.raises(ArtifactError, match="different builds"):
        await open_searcher(directory, RULE)


async def test_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "model").write_text("x")
    seal(tmp_path / "policy", {"kind": "policy"})

    with pytest.raises(ArtifactError, match="no co-occurrence build"):
        await open_searcher(tmp_path / "policy", RULE)


async def test_promoting_is_one_step_in_the_registry_and_may_be_repeated(built: Build, engine: AsyncEngine) -> None:
    first = await promote(engine, built.directory)

    second = await promote(engine, built.directory)

    assert first.version == second.version == built.version
    assert second.revision == 1
    champion = await registry.champion(engine, "cor", "suggest")
    assert champion is not None
    assert champion.directory == built.directory.resolve()


async def test_a_build_serves_from_redis_too(built: Build, tmp_path: Path) -> None:
    with own_redis(tmp_path) as (url, _):
        with pytest.raises(RetrievalError, match="nextquery retrieval publish"):
            await open_searcher(built.directory, RULE, redis_url=url, redis_timeout_s=1)

        count = await put_into_redis(built.directory, url, timeout_s=5, keep_old_s=60)
        searcher = await open_searcher(built.directory, RULE, redis_url=url, redis_timeout_s=1)
        local = await open_searcher(built.directory, RULE)

        assert count == built.manifest["known_queries"]
        for typed in ("how to cook rice", "cooking soup", "volcano"):
            assert await found(searcher, typed) == await found(local, typed)
        await searcher.close()
        await local.close()


async def test_the_dictionary_holds_no_text_of_a_query_below_k(built: Build) -> None:
    dictionary = MappedDictionary(built.directory / "dictionary.lmdb")

    entries = list(dictionary.entries())

    assert len(entries) == built.manifest["known_queries"]
    assert all(SECRET.encode() not in entry for _, entry in entries)
    await dictionary.close()
