"""The catalogue: kinds, entities, facets and the relations between facets, read from the YAML files beside it.

It knows nothing about prompts or training; the simulated audience draws its intents from the same objects.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

HELD_OUT_SHARE = 10  # one entity in ten is never trained on: the evaluation's unseen entities
_HERE = Path(__file__).parent
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entity:
    """One thing of a kind. `held_out`: no training example ever names it."""

    name: str
    kind: str
    held_out: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Facet:
    """One side of a kind that people ask about. `asks` and `answer` have the slot {e}; `label` has none."""

    id: str
    intent: str
    label: str
    asks: tuple[str, ...]
    answer: str
    next: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """Who asked about `before` asks about `after` next. `rank` 1 is the most likely."""

    before: str
    after: str
    rank: int


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of thing with its entities and facets. `compare` has the slots {e} and {f}."""

    name: str
    topic: str
    noun: str
    entities: tuple[Entity, ...]
    facets: tuple[Facet, ...]
    compare: tuple[str, ...]

    @property
    def generic(self) -> bool:
        """Whether it stands for things whose kind is not known: any product, any problem, any how-to."""
        return self.name.startswith("generic_")

    @cached_property
    def facet(self) -> dict[str, Facet]:
        """Facets by id."""
        return {facet.id: facet for facet in self.facets}

    @cached_property
    def relations(self) -> tuple[Relation, ...]:
        """Which facet follows which, as a person's need moves on."""
        return tuple(
            Relation(before=facet.id, after=after, rank=rank)
            for facet in self.facets
            for rank, after in enumerate(facet.next, 1)
        )

    @cached_property
    def names(self) -> frozenset[str]:
        """Names of all entities."""
        return frozenset(entity.name for entity in self.entities)

    @cached_property
    def training(self) -> tuple[str, ...]:
        """Names of the entities that training may use."""
        return tuple(entity.name for entity in self.entities if not entity.held_out)


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A form of creative writing. `requests` and `answer` have the slot {s}; `wrappers` are (prefix, suffix)."""

    id: str
    requests: tuple[str, ...]
    subjects: tuple[str, ...]
    guiding: tuple[str, ...]
    wrappers: tuple[tuple[str, str], ...]
    snippets: tuple[tuple[str, ...], ...]
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AmbiguousWord:
    """A word with several meanings. `senses` are clickable options, `abouts` say in a word or two what each is."""

    word: str
    senses: tuple[str, ...]
    abouts: tuple[str, ...]
    questions: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """Everything that examples are composed from. `parts`: word lists of which new phrases are made."""

    kinds: tuple[Kind, ...]
    forms: tuple[Form, ...]
    words: tuple[AmbiguousWord, ...]
    general_questions: tuple[str, ...]
    parts: dict[str, list[str]]

    @cached_property
    def kind(self) -> dict[str, Kind]:
        """Kinds by name."""
        return {kind.name: kind for kind in self.kinds}

    @cached_property
    def held_out(self) -> frozenset[tuple[str, ...]]:
        """The words of every held-out entity."""
        return frozenset(words_of(entity.name) for entity in self.entities if entity.held_out)

    @property
    def entities(self) -> Iterator[Entity]:
        """Every entity of every kind."""
        return (entity for kind in self.kinds for entity in kind.entities)


def reserved(name: str) -> bool:
    """Whether a name, real or made up, belongs to evaluation. A hash decides, so every run decides alike."""
    return int(sha256(f"evaluation:{name}".encode()).hexdigest(), 16) % HELD_OUT_SHARE == 0


@cache
def load_catalogue(directory: Path = _HERE) -> Catalogue:
    """The catalogue in `directory`: `kinds/*.yaml`, `writing.yaml`, `ambiguous.yaml` and `phrases.yaml`."""
    raw = [_read(path) for path in sorted((directory / "kinds").glob("*.yaml"))]
    ambiguous, phrases = _read(directory / "ambiguous.yaml"), _read(directory / "phrases.yaml")
    forms = _read(directory / "writing.yaml")["forms"]
    held_out = _held_out(raw, _fixed_text(raw, forms, ambiguous, phrases))
    return Catalogue(
        kinds=tuple(_kind(item, held_out) for item in raw),
        forms=tuple(_form(item) for item in forms),
        words=tuple(_word(item) for item in ambiguous["words"]),
        general_questions=tuple(ambiguous["general_questions"]),
        parts=phrases,
    )


def _held_out(raw: list[dict[str, Any]], fixed: list[str]) -> set[str]:
    """Reserved entities that no fixed text contains, and every other entity that contains one of them."""
    names = {str(name) for item in raw for name in item["entities"]}
    runs = {run for text in fixed for run in word_runs(text)}
    chosen = {words_of(name) for name in names if reserved(name)} - runs
    return {name for name in names if any(run in chosen for run in word_runs(name))}


def _fixed_text(raw: list[dict[str, Any]], *others: Any) -> list[str]:
    """Every text of the catalogue that is no entity."""
    if not others:
        return []
    templates = [{key: value for key, value in item.items() if key != "entities"} for item in raw]
    return list(_strings([templates, *others]))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _strings(item)
    else:
        yield str(value)


def words_of(text: str) -> tuple[str, ...]:
    """The words of a text: what two phrases are compared by."""
    return tuple(_WORD.findall(text.casefold()))


def word_runs(text: str) -> Iterator[tuple[str, ...]]:
    """Every run of up to five neighbouring words."""
    words = words_of(text)
    return (words[i : i + n] for n in range(1, 6) for i in range(len(words) - n + 1))


def _read(path: Path) -> Any:
    return yaml.load(path.read_text(encoding="utf-8"), Loader=_LOADER)  # noqa: S506 (a safe loader, in C where there is one)


def _kind(item: dict[str, Any], held_out: set[str]) -> Kind:
    return Kind(
        name=item["kind"],
        topic=item["topic"],
        noun=item["noun"],
        entities=tuple(
            Entity(name=str(name), kind=item["kind"], held_out=str(name) in held_out) for name in item["entities"]
        ),
        facets=tuple(
            Facet(
                id=facet["id"],
                intent=facet["intent"],
                label=facet["label"],
                asks=tuple(facet["asks"]),
                answer=facet["answer"],
                next=tuple(facet["next"]),
            )
            for facet in item["facets"]
        ),
        compare=tuple(item["compare"]),
    )


def _form(item: dict[str, Any]) -> Form:
    return Form(
        id=item["id"],
        requests=tuple(item["requests"]),
        subjects=tuple(item["subjects"]),
        guiding=tuple(item["guiding"]),
        wrappers=tuple((wrapper["prefix"], wrapper["suffix"]) for wrapper in item["wrappers"]),
        snippets=tuple(tuple(group) for group in item["snippets"].values()),
        answer=item["answer"],
    )


def _word(item: dict[str, Any]) -> AmbiguousWord:
    return AmbiguousWord(
        word=item["word"],
        senses=tuple(sense["label"] for sense in item["senses"]),
        abouts=tuple(sense["about"] for sense in item["senses"]),
        questions=tuple(item["questions"]),
    )
