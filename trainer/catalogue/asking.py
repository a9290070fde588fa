"""How a person asks about an entity: one question, a walk from facet to facet, and what may follow.

It knows nothing about tasks or prompts.
"""

from random import Random

from service.contract.query_text import match_key
from trainer.catalogue.catalogue import Facet, Kind


def ask(facet: Facet, entity: str, rng: Random) -> str:
    """One of the ways to ask for a facet of an entity."""
    return rng.choice(facet.asks).replace("{e}", entity)


def compare(kind: Kind, entity: str, rng: Random) -> str:
    """A comparison with another entity of the kind."""
    other = rng.choice([name for name in kind.training if name != entity])
    return rng.choice(kind.compare).replace("{e}", entity).replace("{f}", other)


def next_facets(kind: Kind, facet: Facet, rng: Random) -> list[Facet]:
    """Every other facet, the likely next ones first: the relations of this facet, then theirs, then the rest."""
    near = [kind.facet[name] for name in facet.next]
    further = [kind.facet[name] for before in near for name in before.next]
    rest = list(kind.facets)
    rng.shuffle(near) if rng.random() < 0.3 else None
    rng.shuffle(further)
    rng.shuffle(rest)
    ordered = {other.id: other for other in [*near, *further, *rest] if other.id != facet.id}
    return list(ordered.values())


def follow_ups(kind: Kind, facet: Facet, entity: str, n: int, asked: set[str], rng: Random) -> list[str]:
    """`n` distinct queries that follow a question about `facet`, of different facets; none of those in `asked`."""
    queries = [ask(other, entity, rng) for other in next_facets(kind, facet, rng)[:n]]
    if rng.random() < 0.25:
        queries[rng.randrange(len(queries))] = ask(facet, entity, rng)
    if rng.random() < 0.12:
        queries[-1] = compare(kind, entity, rng)
    return distinct([*queries, *(ask(other, entity, rng) for other in next_facets(kind, facet, rng))], n, asked)


def question(kind: Kind, entity: str, rng: Random) -> tuple[Facet, str]:
    """What is asked, and in which words: a facet, the bare entity, or a comparison."""
    form = rng.random()
    if form < 0.18:
        return rng.choice(kind.facets[:4]), bare(kind, entity, rng)
    if form < 0.23:
        return rng.choice(kind.facets), compare(kind, entity, rng)
    facet = rng.choice(kind.facets)
    if form < 0.29:
        return facet, f"{entity} {facet.label}"
    return facet, ask(facet, entity, rng)


def bare(kind: Kind, entity: str, rng: Random) -> str:
    """The entity without a wish, beside its noun where the name alone could mean anything."""
    if kind.generic or kind.noun in entity or (entity in kind.names and rng.random() < 0.7):
        return entity  # of a made-up name nobody could tell the kind, so it keeps its noun
    return f"{entity} {kind.noun}"


def walk(kind: Kind, facet: Facet, entity: str, steps: int, rng: Random) -> list[tuple[Facet, str]]:
    """A person's queries about one entity, from facet to next facet, each asked once."""
    steps_taken = [(facet, bare(kind, entity, rng) if rng.random() < 0.15 else ask(facet, entity, rng))]
    while len(steps_taken) < steps:
        seen = {other.id for other, _ in steps_taken}
        facet = next((other for other in next_facets(kind, facet, rng) if other.id not in seen), facet)
        steps_taken.append((facet, ask(facet, entity, rng)))
    return steps_taken


def distinct(queries: list[str], n: int, asked: set[str]) -> list[str]:
    """The first `n` of `queries` that differ under `match_key` from each other and from `asked`."""
    kept = {key: query for query in reversed(queries) if (key := match_key(query)) not in asked}
    return [query for query in dict.fromkeys(queries) if kept.get(match_key(query)) == query][:n]
