"""Co-occurrence queries beside an example: of each list 0 to N_REF queries take them up, the rest does not (GQR 3.3).

It knows nothing about mining; what it writes looks like what `retrieval` finds: a few fitting queries among others.
"""

from dataclasses import replace
from random import Random

from service.contract.query_text import match_key
from trainer.catalogue.asking import ask, next_facets
from trainer.catalogue.catalogue import Catalogue
from trainer.catalogue.example import Example
from trainer.catalogue.typing_noise import as_typed

N_REF = 3  # most queries of a list that are pertinent to its co-occurrence queries; GQR's N_ref
_MOST_UNUSED, _MOST_NOISE = 2, 3


def annotated(catalogue: Catalogue, example: Example, rng: Random) -> Example:
    """`example` with co-occurrence queries in its context, and its list annotated with them.

    The number of pertinent queries is uniform in 0 .. min(N_REF, n) (GQR 3.3, third point), so that a policy learns to
    take up, and to leave, what people typed. The pertinent ones lead the list.
    """
    chosen = rng.sample(range(len(example.queries)), rng.randint(0, min(N_REF, len(example.queries))))
    pertinent = [example.queries[i] for i in chosen]
    typed = [as_typed(_as_query(example, text), example.entity, rng) for text in pertinent]
    unused = _unused(catalogue, example, rng.randint(0, _MOST_UNUSED), rng)
    noise = [_noise(catalogue, rng) for _ in range(rng.randint(0, _MOST_NOISE))]
    co_queries = [*typed, *unused, *noise] or [_noise(catalogue, rng)]
    rng.shuffle(co_queries)
    rest = [text for text in example.queries if text not in pertinent]
    return replace(example, context=replace(example.context, co_queries=tuple(co_queries)), queries=(*pertinent, *rest))


def _as_query(example: Example, text: str) -> str:
    """`text` as people would type it by itself: a snippet is only a part of a query."""
    return f"{example.context.query} {text}" if example.task == "snippets" else text


def _unused(catalogue: Catalogue, example: Example, n: int, rng: Random) -> list[str]:
    """Up to `n` queries that people also type next, about facets that the list is silent about."""
    kind = catalogue.kind.get(example.kind)
    if kind is None or example.facet not in kind.facet:
        return []
    told = {match_key(text) for text in (*example.queries, *example.context.session, example.context.query or "")}
    silent = [
        facet
        for facet in next_facets(kind, kind.facet[example.facet], rng)
        if not any(match_key(words.replace("{e}", example.entity)) in told for words in facet.asks)
    ]
    return [ask(facet, example.entity, rng) for facet in silent[:n]]


def _noise(catalogue: Catalogue, rng: Random) -> str:
    """What somebody typed next about something else."""
    kind = rng.choice(catalogue.kinds)
    return ask(rng.choice(kind.facets), rng.choice(kind.training), rng)
