"""The project's own paraphraser: the catalogue's other phrasings of a facet say the same need in other words.

It knows nothing about models, and needs none.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from random import Random

from service.contract.settings import Settings
from trainer.catalogue.catalogue import Catalogue, Kind, load_catalogue
from trainer.catalogue.example import Example


class CatalogueRewriter:
    """See `Rewriter`."""

    name = "catalogue"

    def rewrites(self, examples: Sequence[Example], count: int, seeds: Sequence[str]) -> list[list[Example]]:
        """See `Rewriter`; the context is put in other words too."""
        catalogue = load_catalogue()
        found = []
        for example, seed in zip(examples, seeds, strict=True):
            rng = Random(seed)
            found.append([rewrite(catalogue, example, rng) for _ in range(count)])
        return found


def create(_settings: Settings) -> CatalogueRewriter:
    """The paraphraser; it needs no settings."""
    return CatalogueRewriter()


def rewrite(catalogue: Catalogue, example: Example, rng: Random) -> Example:
    """`example` with every catalogue phrasing in it replaced by another of the same facet. Typed slips stay."""

    def other(text: str) -> str:
        return _other_words(catalogue, example, text, rng)

    context = replace(
        example.context,
        query=other(example.context.query) if example.context.query else None,
        session=tuple(other(text) for text in example.context.session),
    )
    queries = tuple(dict.fromkeys(other(text) for text in example.queries))
    if len(queries) < len(example.queries):
        queries = example.queries
    return replace(example, context=context, queries=queries, texts=_other_texts(catalogue, example, rng))


def _other_words(catalogue: Catalogue, example: Example, text: str, rng: Random) -> str:
    for name in dict.fromkeys([example.kind, *catalogue.kind]):
        if name in catalogue.kind:
            for pattern, asks in _patterns(catalogue.kind[name]):
                found = pattern.fullmatch(text)
                if found and (found["e"] == example.entity or found["e"] in catalogue.kind[name].names):
                    return rng.choice(asks).replace("{e}", found["e"])
    return text


def _other_texts(catalogue: Catalogue, example: Example, rng: Random) -> dict[str, str]:
    texts = dict(example.texts)
    for form in catalogue.forms:
        if form.id == example.kind and example.task == "snippets":
            prefix, suffix = rng.choice(form.wrappers)
            texts |= {"guide": rng.choice(form.guiding), "prefix": prefix, "suffix": suffix}
    if example.task == "clarify" and example.kind in catalogue.kind:
        texts["question"] = rng.choice(catalogue.general_questions).replace("{e}", example.entity)
    return texts


@cache
def _patterns(kind: Kind) -> list[tuple[re.Pattern[str], tuple[str, ...]]]:
    """Each ask of the kind as a pattern of its entity, with the facet's other asks; plain {e} matches too much."""
    return [
        (re.compile(re.escape(ask).replace(r"\{e\}", "(?P<e>.+)", 1).replace(r"\{e\}", "(?P=e)")), facet.asks)
        for facet in kind.facets
        for ask in facet.asks
        if ask != "{e}"
    ]
