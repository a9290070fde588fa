"""The simulated audience: what it clicks of lists that are made by rules, retrieved, written, and chosen by the truth.

`python -m tests.bench.audience --json`. Every figure is simulated. The decision record 0009 has the table that was frozen.
"""

import asyncio
import json
import sys
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import numpy as np

from retrieval.encoder import default_encoder
from retrieval.searcher import Found, SearchRule, open_searcher
from service.contract.policy import Policy, load_policy
from service.contract.settings import STARTER, Settings
from service.engines import create_engine
from tests.bench.alignment_truth import around, p_list
from tests.bench.command import nextquery
from tests.bench.report import Bar, Cell, main
from trainer.audience.audience import Audience
from trainer.audience.constants import FIRST, Constants, drawn
from trainer.audience.in_process import LogConfig, simulate_log
from trainer.audience.listers import Lister, Shown, at_random, the_question_again, written_by
from trainer.audience.scene import Scene
from trainer.audience.scenes import draw_scene

TASKS = ("suggest", "snippets", "hint")
SECOND = 1
_SCENES, _SCENES_OF_BEST, _LISTS_OF_BEST = 600, 100, 64
_RULES = ("random", "question_again", "cor_only", "sft", "best_of_64")
_SEARCHED = 60_000  # lists whose searches retrieval learns from
_OF = ("trainer/audience", "trainer/catalogue", "deploy/starter/sft", "tests/bench/audience.py")
_SINCE = datetime(2026, 10, 1, tzinfo=UTC)


def _bars() -> list[Bar]:
    names = [f"{rule}_{task}{end}" for end in ("", "_second") for task in TASKS for rule in _RULES]
    return [Bar(name, "simulated CTR") for name in names if not name.startswith("cor_only_snippets")]


def _cells() -> list[Cell]:
    return [
        Cell(f"{task}{end}", lambda task=task, constants=constants, end=end: _measure(task, constants, end), of=_OF)
        for constants, end in ((FIRST, ""), (drawn(SECOND), "_second"))
        for task in TASKS
    ]


def _measure(task: str, constants: Constants, end: str) -> dict[str, float]:
    return asyncio.run(_of_task(Audience(constants), task, end))


async def _of_task(audience: Audience, task: str, end: str) -> dict[str, float]:
    """CTR of the lists of each rule over the same scenes."""
    policy = load_policy(STARTER)
    engine = create_engine("auto", policy.directory, Settings())
    await engine.start()
    try:
        sft = written_by(engine, policy)
        diverse = written_by(engine, _at_temperature_one(policy))
        found = {
            "random": await _ctr(audience, task, at_random(audience), _SCENES),
            "question_again": await _ctr(audience, task, the_question_again, _SCENES),
            "sft": await _ctr(audience, task, sft, _SCENES),
            "best_of_64": await _ctr(audience, task, _best_of(audience, diverse), _SCENES_OF_BEST),
        }
    finally:
        await engine.close()
    if task != "snippets":  # nobody types a snippet by itself
        found["cor_only"] = await _retrieved(audience, task)
    return {f"{rule}_{task}{end}": value for rule, value in found.items()}


def _at_temperature_one(policy: Policy) -> Policy:
    return replace(policy, decoding=replace(policy.decoding, temperature=1.0))


async def _ctr(audience: Audience, task: str, lister: Lister, scenes: int) -> float:
    """Mean over scenes of the true probability that a person of the scene clicks in the list."""
    rng = Random(f"audience bench:{task}")
    drawn_scenes = [draw_scene(task, audience.world, rng) for _ in range(scenes)]

    async def one(number: int, scene: Scene) -> float:
        shown = await lister(scene, Random(f"{task}:{number}"))
        return p_list(audience, scene, shown.queries, around(shown), Random(f"people:{number}"))

    return float(np.mean(await asyncio.gather(*(one(*each) for each in enumerate(drawn_scenes)))))


def _best_of(audience: Audience, lister: Lister) -> Lister:
    """The best of many lists under the truth: what alignment could reach with this policy's own words."""

    async def best(scene: Scene, rng: Random) -> Shown:
        lists = await asyncio.gather(*(lister(scene, rng) for _ in range(_LISTS_OF_BEST)))
        return max(  # by other people than judge it
            lists, key=lambda shown: p_list(audience, scene, shown.queries, around(shown), Random(0))
        )

    return best


async def _retrieved(audience: Audience, task: str) -> float:
    """Lists of co-occurrence retrieval alone, built from what other people of this audience typed."""
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch) / "log"
        config = LogConfig(task="suggest", impressions=_SEARCHED, since=_SINCE, days=5, seed=7)
        await simulate_log(at_random(audience), audience, config, log)
        made = nextquery(
            Path(scratch),
            *"retrieval build --no-promote --json --encoder".split(),
            default_encoder(),
            "--snapshot",
            str(log),
        )
        searcher = await open_searcher(Path(json.loads(made)["directory"]), SearchRule())
        try:
            return await _ctr(audience, task, _from_search(searcher.search), _SCENES)
        finally:
            await searcher.close()


def _from_search(search: Callable[..., Awaitable[Found]]) -> Lister:
    async def lister(scene: Scene, rng: Random) -> Shown:
        found = await search(scene.known[-1], timeout_s=30.0)
        return Shown(tuple(each.text for each in found.queries[: scene.context.n]))

    return lister


if __name__ == "__main__":
    sys.exit(main("audience", _bars(), _cells()))
