"""How well a query meets a need: known intent (entity, facet, relation) and words. No neural encoder.

It knows nothing about positions, tastes or clicks.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from trainer.audience.scene import Need, Scene
from trainer.catalogue.catalogue import Catalogue, Form, Kind, words_of

_STOP_WORDS = frozenset(
    "a an and are at be by can do does for from how i in is it my of on or the to what with you".split()
)
_ABOUT = 0.6  # a query is about the facet whose words it shares best, when it shares this much of them
COMPARE = "compare"

Words = frozenset[str]


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """What a query says to people with the needs of one scene.

    `meets`: how well it meets each need, (needs,), 0 .. 1. `facet`: (kind, facet) it is about, None where it is about
    none. `words`: its words; `rest`: those that name no entity of the scene.
    """

    meets: NDArray[np.float64]
    facet: tuple[str, str] | None
    words: Words
    rest: tuple[str, ...]


class Reader:
    """Reads queries as the people of a catalogue do. `kinship`: see `Constants`."""

    def __init__(self, catalogue: Catalogue, *, kinship: float) -> None:
        self._kinship = kinship
        self._facets = {kind.name: _facets_of(kind) for kind in catalogue.kinds}
        self._related = {kind.name: _related(kind) for kind in catalogue.kinds}
        self._frames = {form.id: _frame(form) for form in catalogue.forms}
        self._every_frame = frozenset[str]().union(*self._frames.values())
        self._foreign: dict[str, Words] = {}
        for form in catalogue.forms:
            self._facets[form.id] = _wishes(form)
            self._related[form.id] = _same_direction(form)
            own = self._frames[form.id].union(*(wish for wishes in _wishes(form).values() for wish in wishes))
            self._foreign[form.id] = self._every_frame - own - _STOP_WORDS
        self._matches = lru_cache(maxsize=200_000)(self._matches_of)

    def read(self, scene: Scene, query: str) -> Reading:
        """What `query` says in `scene`; of a snippet, the whole request it completes is given."""
        words = words_of(query)
        said = {subject: self._said(*subject, words) for subject in {(need.about, need.kind) for need in scene.needs}}
        meets = np.array([self._meets(need, words, *said[need.about, need.kind]) for need in scene.needs])
        names = frozenset[str]().union(*(self._names(*subject) for subject in said))
        wrapped = any(need.kind in self._frames for need in scene.needs)
        rest = _without(words, names | self._every_frame if wrapped else names)
        best = max(scene.needs, key=lambda need: _share(words_of(need.about), frozenset(words)))
        return Reading(meets, self._facet(best, words), frozenset(words), rest)

    def _said(self, about: str, kind: str, words: tuple[str, ...]) -> tuple[float, dict[str, float]]:
        """How much words name what a need is about, and how much they share with each facet of its kind, 0 .. 1."""
        on_entity = _share(words_of(about), frozenset(words)) if about else 1.0
        if kind not in self._facets:
            return on_entity, {}
        left = _without(words, self._names(about, kind))
        if not self._foreign.get(kind, frozenset()).isdisjoint(left):
            return on_entity, {}  # the text around a snippet asks for another form of writing
        return on_entity, self._matches(kind, left)

    def _meets(self, need: Need, words: tuple[str, ...], on_entity: float, matches: dict[str, float]) -> float:
        if need.text:
            return on_entity * _overlap(_content(need.text), _content(" ".join(words)))
        own = matches.get(need.facet, 0.0)
        kin = self._related[need.kind].get(need.facet, ())
        near = max((matches.get(facet, 0.0) for facet in kin), default=0.0)
        return on_entity**2 * max(own, self._kinship * near)

    def _facet(self, need: Need, words: tuple[str, ...]) -> tuple[str, str] | None:
        if not need.kind or need.kind not in self._facets:
            return None
        matches = self._matches(need.kind, _without(words, self._names(need.about, need.kind)))
        best = max(matches, key=matches.__getitem__)
        return (need.kind, best) if matches[best] >= _ABOUT else None

    def _names(self, about: str, kind: str) -> Words:
        """Words that say what a query is about, not what it wants: an entity, or the wrappers of a form of writing."""
        return frozenset(words_of(about)) | self._frames.get(kind, frozenset())

    def _matches_of(self, kind: str, words: tuple[str, ...]) -> dict[str, float]:
        """How much a query shares with the best way to ask for each facet, 0 .. 1."""
        content = frozenset(words) - _STOP_WORDS or frozenset(words)
        return {facet: max(_overlap(content, ask) for ask in asks) for facet, asks in self._facets[kind].items()}


def similarity(one: Words, other: Words) -> float:
    """Share of the words of both that they have in common (Jaccard)."""
    return len(one & other) / max(1, len(one | other))


def _facets_of(kind: Kind) -> dict[str, list[Words]]:
    facets = {
        facet.id: [_content(text.replace("{e}", "")) for text in (*facet.asks, facet.label)] for facet in kind.facets
    }
    return facets | {COMPARE: [_content(text.replace("{e}", "").replace("{f}", "")) for text in kind.compare]}


def _frame(form: Form) -> Words:
    """Words of the form's own prefixes and suffixes; those of another form stay and spoil what they complete."""
    return frozenset(word for wrapper in form.wrappers for text in wrapper for word in words_of(text))


def _wishes(form: Form) -> dict[str, list[Words]]:
    """The words of each refinement, by `group/number`."""
    frame = _frame(form)
    return {
        f"{group}/{number}": [_content(snippet) - frame or _content(snippet)]
        for group, snippets in enumerate(form.snippets)
        for number, snippet in enumerate(snippets)
    }


def _same_direction(form: Form) -> dict[str, tuple[str, ...]]:
    """The other refinements of a refinement's group."""
    groups = [[f"{group}/{number}" for number in range(len(snippets))] for group, snippets in enumerate(form.snippets)]
    return {one: tuple(other for other in group if other != one) for group in groups for one in group}


def _related(kind: Kind) -> dict[str, tuple[str, ...]]:
    """The facets that a facet leads to, or that lead to it."""
    found: dict[str, set[str]] = {facet.id: set() for facet in kind.facets}
    for relation in kind.relations:
        found[relation.before].add(relation.after)
        found[relation.after].add(relation.before)
    return {facet: tuple(sorted(kin)) for facet, kin in found.items()}


def _content(text: str) -> Words:
    words = frozenset(words_of(text))
    return words - _STOP_WORDS or words


def _without(words: tuple[str, ...], names: Words) -> tuple[str, ...]:
    return tuple(word for word in words if word not in names)


def _share(wanted: Iterable[str], words: Words) -> float:
    wanted = frozenset(wanted)
    return len(wanted & words) / len(wanted) if wanted else 1.0


def _overlap(one: Words, other: Words) -> float:
    """Harmonic mean of the shares of each that the other has (F1); 1 where there is nothing in either."""
    return 2 * len(one & other) / (len(one) + len(other)) if one or other else 1.0
