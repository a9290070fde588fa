"""The world that people live in: how popular things are, and what is needed after what. Scenes are drawn from it.

It knows no task, no list and no click.
"""

from bisect import bisect
from collections.abc import Callable, Iterable
from hashlib import sha256
from itertools import accumulate
from random import Random
from typing import Generic, TypeVar

from trainer.audience.constants import Constants
from trainer.audience.relevance import COMPARE
from trainer.audience.scene import Need
from trainer.catalogue.asking import ask, compare
from trainer.catalogue.catalogue import Catalogue, Facet, Kind
from trainer.catalogue.names import unseen_name

_MADE_UP = 0.1  # share of the entities that no catalogue has
_COMPARES = 0.06  # share of the needs that are a comparison

Item = TypeVar("Item")


class Popular(Generic[Item]):
    """Items whose popularity follows Zipf's law, in an order that a hash of their names decides."""

    def __init__(self, items: Iterable[Item], name: Callable[[Item], str], exponent: float) -> None:
        self.in_order = sorted(items, key=lambda item: sha256(f"popular:{name(item)}".encode()).digest())
        self._sums = list(accumulate(rank**-exponent for rank in range(1, len(self.in_order) + 1)))

    def draw(self, rng: Random) -> Item:
        """One item."""
        return self.in_order[min(bisect(self._sums, rng.random() * self._sums[-1]), len(self.in_order) - 1)]


class World:
    """A catalogue with popularities and needs."""

    def __init__(self, catalogue: Catalogue, constants: Constants) -> None:
        self.catalogue = catalogue
        self.constants = constants
        self._kinds = Popular(catalogue.kinds, lambda kind: kind.name, constants.entities)
        self._entities = {
            kind.name: Popular((entity.name for entity in kind.entities), str, constants.entities)
            for kind in catalogue.kinds
            if kind.entities
        }

    def thing(self, rng: Random) -> tuple[Kind, str]:
        """A kind and an entity of it; one in ten is made up, and of a generic kind every one."""
        kind = self._kinds.draw(rng)
        if kind.name not in self._entities or rng.random() < _MADE_UP:
            return kind, unseen_name(self.catalogue, kind, rng)
        return kind, self._entities[kind.name].draw(rng)

    def needs_after(self, kind: Kind, facet: Facet, entity: str) -> dict[Need, float]:
        """What people who asked about `facet` need next, with its probability; they sum to 1.

        The relations of the facet by rank, then theirs, the same facet again, a comparison, and whatever is left.
        """
        constants = self.constants
        chances = dict.fromkeys((other.id for other in kind.facets), 0.0)
        for name, chance in zip(facet.next, constants.next_chances, strict=False):
            chances[name] += chance
        further = [name for near in facet.next for name in kind.facet[near].next if name != facet.id]
        for name in further:
            chances[name] += constants.further / len(further)
        chances[facet.id] += constants.again
        chances[COMPARE] = _COMPARES if kind.compare else 0.0
        left = max(0.0, 1.0 - sum(chances.values())) / len(kind.facets)
        total = sum(chances.values()) + left * len(kind.facets)
        return {
            Need(about=entity, kind=kind.name, facet=name): (chance + (left if name != COMPARE else 0.0)) / total
            for name, chance in chances.items()
        }

    def has_next(self, need: Need) -> bool:
        """Whether the catalogue says what follows a need."""
        kind = self.catalogue.kind.get(need.kind)
        return kind is not None and need.facet in kind.facet

    def needs_from(self, need: Need) -> dict[Need, float]:
        """What people need next whose need was met; only of one that `has_next`."""
        kind = self.catalogue.kind[need.kind]
        return self.needs_after(kind, kind.facet[need.facet], need.about)

    def say(self, need: Need, rng: Random) -> str:
        """How somebody types a need."""
        kind = self.catalogue.kind.get(need.kind)
        if need.text or kind is None:
            return need.text  # a wish for a piece of writing has none: nobody types it by itself
        if need.facet == COMPARE:
            return compare(kind, need.about, rng)
        return ask(kind.facet[need.facet], need.about, rng)


def shared(weights: Iterable[float]) -> tuple[float, ...]:
    """Weights as chances that sum to 1."""
    listed = tuple(weights)
    return tuple(weight / sum(listed) for weight in listed)
