"""A visit: one person's session, list after list, until the need is met or given up.

It knows no engine and no service: it says what the person does, is shown a list, and says what the person makes of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random

import numpy as np
from numpy.typing import NDArray

from service.contract.types import Origin, PromptContext
from trainer.audience.audience import Audience
from trainer.audience.scene import Need, Scene

_MOST_LISTS = 4  # in one visit
_TYPES_ON = 0.6  # of those who found nothing type their need and look at the next list; the others search elsewhere
_GO_ON = ("suggest", "hint")  # tasks whose component is shown again in the same session


@dataclass(frozen=True, slots=True)
class Reaction:
    """What a person makes of a list. `p_click`: the true probabilities before they acted, (N,).

    `clicked`: positions, from 1. `typed`: what they typed instead, and searched for elsewhere, or None.
    """

    p_click: NDArray[np.float64]
    clicked: tuple[int, ...]
    typed: str | None = None


class Visit:
    """One person's session. `scene` is what they do now, `origin` where its query came from; None: they left."""

    def __init__(self, audience: Audience, rng: Random, scene: Scene, *, day: float = 0.0) -> None:
        self.scene: Scene | None = scene
        self.origin = Origin.TYPED
        self.day = day
        self._audience = audience
        self._person = audience.people(scene, rng)
        self._rng = rng
        self._lists = 0

    def see(self, queries: Sequence[str], texts: Mapping[str, str]) -> Reaction:
        """What the person makes of a list; afterwards `scene` is what they do next.

        Raises:
            ValueError: They left already.
        """
        scene = self.scene
        if scene is None:
            raise ValueError("This visit is over: its person left after the list before. Begin another one.")
        self._lists += 1
        around = (texts.get("prefix", ""), texts.get("suffix", ""))
        p_click = np.zeros(0)
        clicked: list[int] = []
        if queries:
            p_click = self._audience.p_click(scene, queries, self._person, around=around, day=self.day)[0]
            clicked = self._audience.clicks(scene, p_click, self._rng)
        need = scene.needs[int(self._person.needs[0])]
        said = queries[clicked[0] - 1] if clicked else self._audience.world.say(need, self._rng)
        if self._goes_on(scene, need, met=bool(clicked)):
            self.origin = Origin.CLICKED if clicked else Origin.TYPED
            self._move_on(scene, need, said)
            return Reaction(p_click, tuple(clicked))
        self.scene = None
        return Reaction(p_click, tuple(clicked), None if clicked or not said else said)

    def _goes_on(self, scene: Scene, need: Need, *, met: bool) -> bool:
        if scene.task not in _GO_ON or self._lists == _MOST_LISTS or not self._audience.world.has_next(need):
            return False
        return self._rng.random() < (self._audience.constants.goes_on if met else _TYPES_ON)

    def _move_on(self, scene: Scene, need: Need, said: str) -> None:
        """The need was met or typed; the next one follows from it."""
        session = (*scene.context.session, *((scene.context.query,) if scene.context.query else ()))
        query = said if scene.context.query else None
        context = PromptContext(
            n=scene.context.n,
            query=query,
            session=session if query else (*session, said),
            history=scene.context.history,
        )
        needs = self._audience.world.needs_from(need)
        self.scene = replace(scene, context=context, needs=tuple(needs), chances=tuple(needs.values()))
        self._person = replace(
            self._audience.people(self.scene, self._rng), openness=self._person.openness, knows=self._person.knows
        )
