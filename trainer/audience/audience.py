"""The audience: for any list shown in any scene, the true probability of a click on each query, and who clicks.

It knows no engine, no service and no predictor. The model of a click, for a person who needs `f` and a query `q` at
position k:

    P(click) = looks(k) * sigmoid(base + openness + meets * meet(q, f) + wording * liking(q)
                                  - repeats * repeat(q) - known * knows(q) - long * words too many)

Where a component takes several clicks they are independent, given the person (GQR eq. 3); where it takes one, a person
reads from the top and takes the first that appeals (eq. 4).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from math import cos, pi, sin, sqrt
from random import Random
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from service.contract.tasks import get_task
from trainer.audience.constants import FIRST, Constants
from trainer.audience.relevance import Reader, Reading, similarity
from trainer.audience.scene import Scene
from trainer.audience.world import World
from trainer.catalogue.catalogue import Catalogue, load_catalogue, words_of

_MANY = 200  # people over whom an expectation is taken
_LISTS_KEPT = 512  # read once, however many people see them
_LIKELY = 0.5  # two queries that share less of their words repeat nothing


@dataclass(frozen=True, slots=True, eq=False)
class People:
    """Some of those who do what a scene says, P of them.

    `needs`: which need of the scene each has, (P,). `openness`: added to the logit of every click, (P,). `knows`: for
    each facet that somebody may know, who does, (P,).
    """

    needs: NDArray[np.int64]
    openness: NDArray[np.float64]
    knows: dict[tuple[str, str], NDArray[np.bool_]]


class Audience:
    """People who behave by `constants` in the world of `catalogue`. Safe to share; every draw takes its own `rng`."""

    def __init__(self, constants: Constants = FIRST, catalogue: Catalogue | None = None) -> None:
        self.constants = constants
        self.world = World(catalogue or load_catalogue(), constants)
        self._reader = Reader(self.world.catalogue, kinship=constants.kinship)
        self._read = lru_cache(maxsize=_LISTS_KEPT)(self._read_list)

    def people(self, scene: Scene, rng: Random, n: int = 1) -> People:
        """`n` people who do what `scene` says."""
        draws = np.random.default_rng(rng.getrandbits(64))
        facets = sorted({(need.kind, need.facet) for need in scene.needs if need.kind})
        knows = draws.random((len(facets), n)) < self.constants.knows
        return People(
            needs=draws.choice(len(scene.needs), size=n, p=scene.chances),
            openness=draws.normal(0.0, self.constants.openness, n),
            knows=dict(zip(facets, knows, strict=True)),
        )

    def p_click(
        self,
        scene: Scene,
        queries: Sequence[str],
        people: People,
        *,
        around: tuple[str, str] = ("", ""),
        day: float = 0.0,
    ) -> NDArray[np.float64]:
        """The true probability of a click by each person on each query, (P, N).

        `around`: prefix and suffix that complete a snippet. `day`: days since the drift of taste began.
        """
        merits, meets, facets = self._read(scene, tuple(queries), around, day)
        meets = meets[people.needs]
        known = np.stack([_who_knows(people, facet) for facet in facets], axis=1)
        logits = merits + people.openness[:, None] + self.constants.meets * meets - self.constants.known * known
        looks = np.array([self.constants.looks(position) for position in range(1, len(queries) + 1)])
        appeals = looks / (1.0 + np.exp(-logits))
        if get_task(scene.task).single_choice:
            passed = np.cumprod(1.0 - appeals, axis=1)
            appeals[:, 1:] *= passed[:, :-1]
        return np.asarray(appeals, np.float64)

    def expected_p_click(
        self,
        scene: Scene,
        queries: Sequence[str],
        rng: Random,
        *,
        around: tuple[str, str] = ("", ""),
        day: float = 0.0,
        people: int = _MANY,
    ) -> NDArray[np.float64]:
        """E[true p_click] of each query over `people` people of the scene, (N,): the most a predictor could know."""
        return np.asarray(self.p_click(scene, queries, self.people(scene, rng, people), around=around, day=day).mean(0))

    def list_click(self, scene: Scene, p_click: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probability that a person clicks in the list at all, (P,), from (P, N): GQR eq. 3 or 4."""
        if get_task(scene.task).single_choice:
            return np.asarray(p_click.sum(1))
        return np.asarray(1.0 - np.prod(1.0 - p_click, axis=1))

    def clicks(self, scene: Scene, p_click: NDArray[np.float64], rng: Random) -> list[int]:
        """Positions, from 1, that one person clicks, given their (N,) probabilities."""
        if get_task(scene.task).single_choice:
            drawn = np.searchsorted(np.cumsum(p_click), rng.random(), side="right")
            return [int(drawn) + 1] if drawn < len(p_click) else []
        return [position for position, p in enumerate(p_click, 1) if rng.random() < p]

    def grade(self, scene: Scene, queries: Sequence[str]) -> NDArray[np.float64]:
        """What an assessor who knows the scene, but not the person, would grade each query, 1 .. 5, (N,)."""
        met = [float(np.dot(self._reader.read(scene, query).meets, scene.chances)) for query in queries]
        return 1.0 + np.round(4.0 * np.minimum(1.0, np.array(met) / max(scene.chances)))

    def _read_list(
        self, scene: Scene, queries: tuple[str, ...], around: tuple[str, str], day: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], list[tuple[str, str] | None]]:
        """What a list says whoever reads it: merits, (N,), how it meets each need, (needs, N), and what it is about."""
        whole = [" ".join(part for part in (around[0], query, around[1]) if part) for query in queries]
        readings = [self._reader.read(scene, text) for text in whole]
        meets = np.stack([reading.meets for reading in readings], axis=1)
        return self._merits(scene, queries, readings, day), meets, [reading.facet for reading in readings]

    def _merits(
        self, scene: Scene, queries: Sequence[str], readings: Sequence[Reading], day: float
    ) -> NDArray[np.float64]:
        """What a query has for and against it whoever reads it, on the scale of the logit, (N,)."""
        constants = self.constants
        asked = [frozenset(words_of(text)) for text in scene.known]
        merits = []
        for number, reading in enumerate(readings):
            above = [other.words for other in readings[:number]]
            alike = max((similarity(reading.words, other) for other in (*asked, *above)), default=0.0)
            too_many = max(0, len(words_of(queries[number])) - constants.words)
            merits.append(
                constants.base
                + constants.wording * _liking(reading.rest, day / constants.drift_days)
                - constants.repeats * max(0.0, alike - _LIKELY) / (1.0 - _LIKELY)
                - constants.long * too_many
            )
        return np.array(merits)


def _who_knows(people: People, facet: tuple[str, str] | None) -> NDArray[np.float64]:
    return people.knows[facet].astype(float) if facet in people.knows else np.zeros(len(people.needs))


def _liking(words: tuple[str, ...], turns: float) -> float:
    """How much people like words, standard normal over random words; it turns to another liking in one turn."""
    if not words:
        return 0.0
    now, later = cos(turns * pi / 2), sin(turns * pi / 2)
    liked = sum(now * _taste(word, 0) + later * _taste(word, 1) for word in words)
    return liked / sqrt(len(words))


@lru_cache(maxsize=100_000)
def _taste(word: str, number: int) -> float:
    share = int.from_bytes(sha256(f"taste:{number}:{word}".encode()).digest()[:6]) + 0.5
    return NormalDist().inv_cdf(share / 256**6)
