"""Lists of co-occurrence retrieval alone, learnt from the same log: what a policy must beat before it is aligned.

It knows nothing about policies.
"""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy as np

from retrieval.encoder import default_encoder
from retrieval.searcher import SearchRule, open_searcher
from service.contract.snapshot import Snapshot
from tests.bench.alignment_truth import p_list
from tests.bench.command import nextquery
from trainer.audience.audience import Audience
from trainer.audience.scene import Scene

_NOBODY_TYPES = ("snippets",)


async def cor_only_ctr(
    audience: Audience, scenes: Sequence[Scene], snapshot: Snapshot, data_dir: Path
) -> dict[str, float]:
    """True CTR of what retrieval finds for the last query of each scene; none where nobody types what is shown."""
    if scenes[0].task in _NOBODY_TYPES:
        return {}
    words = "retrieval build --no-promote --json --encoder".split()
    made = await asyncio.to_thread(
        nextquery, data_dir, *words, default_encoder(), "--snapshot", str(snapshot.directory)
    )
    searcher = await open_searcher(Path(json.loads(made)["directory"]), SearchRule())
    try:
        found = [await searcher.search(scene.known[-1], timeout_s=30.0) for scene in scenes]
    finally:
        await searcher.close()
    lists = [tuple(each.text for each in one.queries) for one in found]
    return {
        "cor_only": float(
            np.mean(
                [
                    p_list(audience, scene, queries[: scene.context.n], ("", ""), Random(f"people:{number}"))
                    for number, (scene, queries) in enumerate(zip(scenes, lists, strict=True))
                ]
            )
        )
    }
