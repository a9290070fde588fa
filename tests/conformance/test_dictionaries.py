"""What every place of the co-occurrence dictionary must do, asked of each of them."""

import uuid
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import redis

from retrieval.dictionaries import Dictionary, NextQuery, to_bytes, to_key
from retrieval.dictionaries.mapped import MappedDictionary, write_dictionary
from retrieval.dictionaries.redis import PREFIX, open_redis_dictionary, publish_to_redis
from service.contract.query_text import query_id
from tests.redis_server import redis_url

ENTRIES: dict[int, list[NextQuery]] = {
    query_id("rice"): [NextQuery("brown rice", 0.5), NextQuery("rice cooker", 0.25)],
    query_id("米"): [NextQuery("玄米 \U0001f35a", 0.125), NextQuery('"quoted" \\ and,comma', 1e-7)],
    2**63 - 1: [NextQuery("the greatest id", 1.0)],
    -(2**63): [NextQuery("the least id", 1.0)],
    0: [NextQuery("zero", 1.0)],
    -1: [],
}


@pytest.fixture(params=["mapped", "redis"])
async def dictionary(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Dictionary]:
    """A dictionary of `ENTRIES`, in each place."""
    opened = await (in_redis() if request.param == "redis" else in_file(tmp_path))
    yield opened
    await opened.close()
    if request.param == "redis":
        with redis.Redis.from_url(redis_url()) as client:
            client.delete(*client.keys(f"{PREFIX}:{opened.build}*"))


async def in_file(directory: Path) -> Dictionary:
    in_order = sorted(ENTRIES.items(), key=lambda entry: to_key(entry[0]))
    write_dictionary(directory / "dictionary.lmdb", "cor-1", in_order)
    return MappedDictionary(directory / "dictionary.lmdb")


async def in_redis() -> Dictionary:
    url, build = redis_url(), f"test-{uuid.uuid4().hex}"
    entries = [(number, to_bytes(entry)) for number, entry in ENTRIES.items()]
    publish_to_redis(url, build, entries, len(entries), timeout_s=2, keep_old_s=60)
    return await open_redis_dictionary(url, build, 1)


async def one(dictionary: Dictionary, number: int) -> Sequence[NextQuery]:
    (found,) = await dictionary.next_queries([number])
    return found


@pytest.mark.parametrize("number", ENTRIES)
async def test_what_was_written_is_found(dictionary: Dictionary, number: int) -> None:
    found = await one(dictionary, number)

    assert list(found) == ENTRIES[number]


async def test_an_unknown_query_has_no_entry(dictionary: Dictionary) -> None:
    assert await one(dictionary, query_id("nobody typed this")) == ()


async def test_many_are_asked_at_once_and_answered_in_their_order(dictionary: Dictionary) -> None:
    asked = [*ENTRIES, 12345, *reversed(ENTRIES)] * 20

    found = await dictionary.next_queries(asked)

    assert [list(entry) for entry in found] == [ENTRIES.get(number, []) for number in asked]


async def test_asking_for_nothing_gives_nothing(dictionary: Dictionary) -> None:
    assert await dictionary.next_queries([]) == []


async def test_a_dictionary_says_which_build_it_is_of(dictionary: Dictionary) -> None:
    assert dictionary.build


def test_keys_sort_as_unsigned_numbers() -> None:
    numbers = [5, -5, 0, 2**63 - 1, -(2**63), -1]

    assert sorted(numbers, key=to_key) == sorted(numbers, key=lambda number: number % 2**64)


def test_a_dictionary_is_written_in_order_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="out of order"):
        write_dictionary(tmp_path / "dictionary.lmdb", "cor-1", [(7, []), (5, [])])
