"""Quality of a policy on queries whose entities its training never saw.

It knows no engine: any that keeps the engine protocol is asked, as serving asks it. The bars of the starter policy
are a parse_ok_share of .99, an on_entity_share of .9 and a distinct_share of .97.
"""

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from service.contract.engine import Engine
from service.contract.policy import Policy
from service.contract.query_text import match_key
from service.contract.tasks import get_task
from service.contract.types import PromptContext
from trainer.catalogue.asking import ask
from trainer.catalogue.catalogue import Catalogue, load_catalogue, words_of
from trainer.catalogue.example import Example
from trainer.catalogue.names import unseen_name
from trainer.encoding import PROMPT_BUDGET

_MAX_TOKENS = 128


@dataclass(frozen=True, slots=True)
class Written:
    """What a policy wrote for one example. `finished`: it ended the list itself. `latency_ms`: with others at once."""

    example: Example
    text: str
    finished: bool
    latency_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Quality:
    """Shares of the whole evaluation, each in 0..1.

    `parse_ok_share`: lists that are finished, parse, and have all n queries and auxiliary texts. `on_entity_share`:
    listed queries with every word of the entity. `distinct_share`: listed queries not written before in their list.
    """

    lists: int
    parse_ok_share: float
    on_entity_share: float
    distinct_share: float


async def evaluate(
    engine: Engine, policy: Policy, examples: Sequence[Example], *, at_once: int = 16
) -> tuple[Quality, list[Written]]:
    """Ask `engine` for a list for every example and score what it wrote. The engine is started already.

    Lists are sampled as the policy says, which is how they are served.
    """
    tokenizer = policy.tokenizer
    gate = asyncio.Semaphore(at_once)

    async def write(number: int, example: Example) -> Written:
        prompt = get_task(example.task).render(example.context, tokenizer, budget=PROMPT_BUDGET)
        sampling = policy.sampling(example.context, max_tokens=_MAX_TOKENS, seed=number)
        async with gate:
            asked = time.monotonic()
            [completion] = await engine.generate(f"evaluate-{number}", prompt.token_ids, sampling, policy.adapter)
        text, latency_ms = tokenizer.decode(completion.token_ids), 1000 * (time.monotonic() - asked)
        return Written(example, text, completion.finish_reason == "stop", latency_ms)

    written = list(await asyncio.gather(*(write(number, example) for number, example in enumerate(examples))))
    return score(written, tokenizer.format.separator), written


def score(written: Sequence[Written], separator: str) -> Quality:
    """The shares over all lists."""
    parsed_ok, listed, on_entity, distinct = 0, 0, 0, 0
    for item in written:
        n = item.example.context.n
        parsed = get_task(item.example.task).parse(item.text, n=n, separator=separator)
        parsed_ok += item.finished and parsed.problem is None and len(parsed.queries) == n
        queries = _listed(item.text, separator)[:n]
        listed += len(queries)
        wanted = set(words_of(item.example.entity))
        on_entity += sum(wanted <= set(words_of(query)) for query in queries)
        distinct += len({match_key(query) for query in queries})
    return Quality(
        lists=len(written),
        parse_ok_share=parsed_ok / max(1, len(written)),
        on_entity_share=on_entity / max(1, listed),
        distinct_share=distinct / max(1, listed),
    )


def latency_ms(written: Sequence[Written], share: float) -> float:
    """The latency that this share of the lists does not exceed."""
    ordered = sorted(item.latency_ms for item in written)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else math.nan


def unseen_queries(*, held_out: int = 350, made_up: int = 150, seed: int = 0) -> list[Example]:
    """`suggest` queries, three wanted each, about held-out entities and about names made up for evaluation."""
    catalogue = load_catalogue()
    rng = Random(f"unseen:{seed}")
    entities = [entity for entity in catalogue.entities if entity.held_out]
    chosen = [(entity.kind, entity.name) for entity in rng.sample(entities, held_out)]
    for _ in range(made_up):
        kind = rng.choice(catalogue.kinds)
        chosen.append((kind.name, unseen_name(catalogue, kind, rng, for_evaluation=True)))
    return [_unseen_query(catalogue, kind, entity, rng) for kind, entity in chosen]


def known_names(count: int = 300, *, seed: int = 0) -> list[Example]:
    """`suggest` queries, three wanted each, that are nothing but a name that training knows."""
    catalogue, rng = load_catalogue(), Random(f"known:{seed}")
    kinds = [kind for kind in catalogue.kinds if not kind.generic]
    chosen = [(kind, rng.choice(kind.training)) for kind in rng.choices(kinds, k=count)]
    return [
        Example(task="suggest", context=PromptContext(n=3, query=name), entity=name, kind=kind.name)
        for kind, name in chosen
    ]


def on_kind_share(written: Sequence[Written], separator: str) -> float:
    """Share of the listed queries that make sense for their thing: a city has hotels, a soup has none.

    A query counts when the catalogue has it for a kind that knows the name, or when it compares two things.
    """
    listed, fitting = 0, 0
    for item in written:
        entity = item.example.entity
        kinds = [kind for kind in load_catalogue().kinds if entity in kind.names]
        asks = [text for kind in kinds for facet in kind.facets for text in (*facet.asks, f"{{e}} {facet.label}")]
        known = {match_key(text.replace("{e}", entity)) for text in asks}
        compared = [text.partition("{e}") for kind in kinds for text in kind.compare]
        begins = tuple(f"{before}{entity}{after.split('{f}')[0]}" for before, _, after in compared)
        for query in _listed(item.text, separator)[: item.example.context.n]:
            listed += 1
            key = match_key(query)
            fitting += key in known or key.startswith(begins)
    return fitting / max(1, listed)


def _unseen_query(catalogue: Catalogue, kind: str, entity: str, rng: Random) -> Example:
    facet = rng.choice(catalogue.kind[kind].facets)
    answer = facet.answer.replace("{e}", entity).lower() if rng.random() < 0.25 else None
    return Example(
        task="suggest",
        context=PromptContext(n=3, query=ask(facet, entity, rng), answer=answer),
        queries=(),
        entity=entity,
        kind=kind,
        facet=facet.id,
    )


def _listed(text: str, separator: str) -> list[str]:
    return [query for query in text.split(separator) if query.strip()]
