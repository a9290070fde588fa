"""The candidate search on many machines: Ray Data actors, each with an engine and a predictor of its own.

It knows nothing about how lists are found: shards, files and lists are those of `CandidateSearch.search_to`. Ray comes with
`pip install nextquery[cluster]`, and is imported only when it is called.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from service.contract.errors import ConfigurationError
from trainer.candidates import CandidateSearch
from trainer.candidates.scored_lists import Shards, to_parquet
from trainer.prompts import AlignmentPrompt

Make = Callable[[], Awaitable[CandidateSearch]]


class Searcher:
    """One actor: a search on a started engine, made once, that answers shard by shard."""

    def __init__(self, make: Make, shards: Mapping[int, Sequence[AlignmentPrompt]]) -> None:
        self._loop = asyncio.Runner()
        self._shards = shards
        self._search = self._loop.run(_made(make))

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row of one shard with what was found, as the bytes of its file."""
        found = self._loop.run(self._search.search(self._shards[int(row["number"])]))
        return {"number": row["number"], "found": to_parquet(found)}


def search_with_ray(
    directory: Path,
    prompts: Sequence[AlignmentPrompt],
    make: Make,
    identity: Mapping[str, object],
    *,
    actors: int,
    shard_size: int = 256,
    cpus: float = 1,
    gpus: float = 0,
) -> None:
    """Search as `CandidateSearch.search_to` does, with `actors` of `cpus` and `gpus` each; files appear here as they come.

    `make` gives each actor its search, on an engine that it started; where it runs, the models must be. `identity`: as
    `trainer.candidates.identity_of` says.

    Raises:
        ConfigurationError: Ray is not installed, or `directory` has another search or cannot be written.
    """
    try:
        import ray.data
    except ImportError:
        raise ConfigurationError(
            "Ray is not installed. Install nextquery[cluster], or search in this process with CandidateSearch.search_to."
        ) from None
    shards = Shards(directory, prompts, shard_size, identity)
    missing = {number: shards.prompts(number) for number in shards.missing()}
    if not missing:
        return
    rows = ray.data.from_items([{"number": number} for number in missing], override_num_blocks=len(missing))
    pool = ray.data.ActorPoolStrategy(size=min(actors, len(missing)))
    found = rows.map(Searcher, fn_constructor_args=(make, missing), compute=pool, num_cpus=cpus, num_gpus=gpus)
    for row in found.iter_rows():
        shards.write(int(row["number"]), row["found"])


async def _made(make: Make) -> CandidateSearch:
    return await make()
