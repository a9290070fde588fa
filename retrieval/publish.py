"""Puts a build into service: into Redis where there is one, into the registry, and to the front.

It knows nothing about how builds are made; running services look at the registry by themselves.
"""

from pathlib import Path
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from retrieval.dictionaries.mapped import MappedDictionary
from retrieval.dictionaries.redis import publish_to_redis
from retrieval.searcher import KIND
from service.contract import registry
from service.contract.artifact import verify
from service.contract.fence import Fence


async def put_into_redis(directory: Path, url: str, *, timeout_s: float, keep_old_s: int) -> int:
    """Copy the dictionary of a build into Redis; returns the number of entries.

    Raises:
        ArtifactError: The build is damaged.
        RetrievalError: Redis is away; what it had before is unchanged.
    """
    manifest = verify(directory)
    dictionary = MappedDictionary(directory / "dictionary.lmdb")
    try:
        count = int(manifest["known_queries"])
        entries = dictionary.entries()
        publish_to_redis(url, dictionary.build, entries, count, timeout_s=timeout_s, keep_old_s=keep_old_s)
    finally:
        await dictionary.close()
    return count


async def promote(
    database: AsyncEngine, directory: Path, *, expected_revision: int | None = None, fence: Fence | None = None
) -> registry.Champion:
    """Register the build in `directory` and make it the one that serves; running services take it up by themselves.

    `expected_revision`, `fence`: see `service.contract.registry.put_in_front`.

    Raises:
        ArtifactError: The build is damaged.
        RegistryConflict: Somebody else promoted another one meanwhile.
    """
    manifest: dict[str, Any] = verify(directory)
    version = str(manifest["version"])
    metrics = manifest.get("evaluation", {}).get("methods", {}).get("cor", {})
    model = await registry.register(
        database, version=version, kind=KIND, task=registry.ANY_TASK, directory=directory, metrics=metrics
    )
    return await registry.put_in_front(database, model, expected_revision=expected_revision, fence=fence)
