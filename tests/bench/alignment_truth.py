"""What simulated people make of a policy's lists: their true CTR, and what could be reached with the policy's words.

It knows nothing about predictors or training.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from random import Random

import numpy as np
from numpy.typing import NDArray

from service.contract.engine import Engine
from service.contract.policy import Policy
from trainer.assess import Written, write
from trainer.audience.audience import Audience
from trainer.audience.listers import Shown
from trainer.audience.scene import Scene
from trainer.audience.scenes import draw_scene
from trainer.prompts import AlignmentPrompt, prompt_of

_PEOPLE, _LISTS_OF_BEST = 200, 64


def draw_scenes(audience: Audience, task: str, count: int, seed: int) -> list[Scene]:
    """Scenes of people whom no log has."""
    rng = Random(f"alignment bench:{task}:{seed}")
    return [draw_scene(task, audience.world, rng) for _ in range(count)]


def prompts_for(scenes: Sequence[Scene]) -> list[AlignmentPrompt]:
    """What a policy reads of them."""
    return [prompt_of(scene.task, scene.context) for scene in scenes]


def true_ctr(audience: Audience, scenes: Sequence[Scene], written: Sequence[Written]) -> NDArray[np.float64]:
    """Probability that a person of each scene clicks in the list written for it, (S,); an empty list earns nothing."""
    return np.array(
        [
            p_list(audience, scene, each.queries, around(each), Random(f"people:{number}"))
            for number, (scene, each) in enumerate(zip(scenes, written, strict=True))
        ]
    )


def around(written: Written | Shown) -> tuple[str, str]:
    """The texts that stand before and after what is chosen."""
    return written.texts.get("prefix", ""), written.texts.get("suffix", "")


def p_list(audience: Audience, scene: Scene, queries: Sequence[str], around: tuple[str, str], rng: Random) -> float:
    """Mean probability over people of a scene, whom `rng` decides, that they click in a list."""
    if not queries:
        return 0.0
    p = audience.p_click(scene, queries, audience.people(scene, rng, _PEOPLE), around=around)
    return float(audience.list_click(scene, p).mean())


async def best_of_64(audience: Audience, scenes: Sequence[Scene], engine: Engine, policy: Policy) -> list[Written]:
    """The best of 64 lists at temperature 1 for each scene, by the true probability over other people than judge it."""
    lists = await at_temperature_one(engine, policy, prompts_for(scenes), _LISTS_OF_BEST)
    return [
        max(written, key=lambda each: p_list(audience, scene, each.queries, around(each), Random("who chooses")))
        for scene, written in zip(scenes, lists, strict=True)
    ]


async def at_temperature_one(
    engine: Engine, policy: Policy, prompts: Sequence[AlignmentPrompt], count: int
) -> list[list[Written]]:
    """`count` lists for each prompt."""
    diverse = replace(policy, decoding=replace(policy.decoding, temperature=1.0))
    drawn = await asyncio.gather(*(write(engine, diverse, prompts, seed=seed) for seed in range(count)))
    return [list(each) for each in zip(*drawn, strict=True)]
