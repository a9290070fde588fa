"""Fits the audience to what is known of real people: shares of clicks by rank, and how often grades name the winner.

Run by hand when the constants are chosen (`python -m trainer.audience.fit`), and by a test that they still fit. The real
shares are those of `impressions.tsv` (TREC Session 2012 and 2013); they are counts, not rows.
"""

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
from numpy.typing import NDArray

from trainer.audience.audience import Audience
from trainer.audience.constants import Constants
from trainer.audience.listers import random_list
from trainer.audience.scene import Scene
from trainer.audience.scenes import draw_scene
from trainer.catalogue.catalogue import Catalogue

RANKS = 10
_FIRST_LOOK = 0.95  # nearly everybody looks at the first query; the shares only say how the others compare to it


def real_click_shares(path: Path) -> NDArray[np.float64]:
    """Share of the clicks on ranks 1 .. 10 that each of them got, (10,)."""
    with path.open(encoding="utf-8", newline="") as file:
        ranks = Counter(int(row["rank"]) for row in csv.DictReader(file, delimiter="\t") if row["clicked"] == "1")
    return _shares([ranks[rank] for rank in range(1, RANKS + 1)])


def simulated_click_shares(audience: Audience, *, lists: int = 2000, seed: int = 0) -> NDArray[np.float64]:
    """The same of simulated people who are shown ten queries about the right thing in random order, (10,)."""
    rng = Random(f"fit:{seed}")
    clicks = np.zeros(RANKS)
    for scene, queries in _lists(audience, rng, RANKS, lists):
        clicks[: len(queries)] += audience.expected_p_click(scene, queries, rng, people=20)
    return _shares(clicks)


def fit_examination(constants: Constants, catalogue: Catalogue, real: NDArray[np.float64]) -> tuple[float, ...]:
    """The examination with which the simulated shares are the real ones: corrected by their ratio until they are."""
    looks = np.ones(RANKS)
    for _ in range(4):
        looks = _FIRST_LOOK * looks / looks[0]
        audience = Audience(replace(constants, examination=tuple(looks)), catalogue)
        looks = looks * real / simulated_click_shares(audience)
    return tuple(round(float(each), 3) for each in _FIRST_LOOK * looks / looks[0])


def grades_name_winner(audience: Audience, *, pairs: int = 1500, seed: int = 0) -> float:
    """Of two lists of three for one scene, how often the better graded one is clicked more often; ties do not count.

    In MIMICS-Duo it is about .56.
    """
    rng = Random(f"grades:{seed}")
    named = []
    for scene, queries in _lists(audience, rng, 3, pairs):
        other = _random_queries(audience, scene, 3, rng)
        graded = [float(audience.grade(scene, each).mean()) for each in (queries, other)]
        clicked = [_ctr(audience, scene, each, rng) for each in (queries, other)]
        if graded[0] != graded[1]:
            named.append((graded[0] > graded[1]) == (clicked[0] > clicked[1]))
    return float(np.mean(named))


def _lists(audience: Audience, rng: Random, n: int, count: int) -> Iterator[tuple[Scene, tuple[str, ...]]]:
    for _ in range(count):
        scene = draw_scene("suggest", audience.world, rng)
        yield scene, _random_queries(audience, scene, n, rng)


def _random_queries(audience: Audience, scene: Scene, n: int, rng: Random) -> tuple[str, ...]:
    return random_list(audience, scene, n, rng).queries


def _ctr(audience: Audience, scene: Scene, queries: Sequence[str], rng: Random) -> float:
    people = audience.people(scene, rng, 200)
    return float(audience.list_click(scene, audience.p_click(scene, queries, people)).mean())


def _shares(counts: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(counts, np.float64) / np.sum(counts)
