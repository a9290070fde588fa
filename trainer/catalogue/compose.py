"""Composes annotated examples of every task from the catalogue, as many as wanted, the same for the same seed.

It knows nothing about tokens or models. What a task's example is made of stands in the function of its name.
"""

from collections.abc import Callable, Iterator
from itertools import count
from random import Random

from service.contract.query_text import match_key
from service.contract.types import EventSource, HistoryEvent, PromptContext
from trainer.catalogue.asking import ask, bare, distinct, follow_ups, question, walk
from trainer.catalogue.catalogue import AmbiguousWord, Catalogue, Facet, Form, Kind
from trainer.catalogue.co_occurrence import annotated
from trainer.catalogue.example import Example
from trainer.catalogue.names import model_number, unseen_name
from trainer.catalogue.typing_noise import as_typed

TASK_SHARES = {"suggest": 0.52, "hint": 0.14, "clarify": 0.13, "predict": 0.12, "snippets": 0.09}
_MADE_UP = 0.5
_GENERIC = 0.25  # share of the kinds that stand for whatever the catalogue has no kind for
_WITH_CO_QUERIES = {"suggest": 0.3, "hint": 0.3, "predict": 0.2, "clarify": 0.2, "snippets": 0.15}
_LENGTHS = [3] * 12 + [1, 2, 4, 5, 6, 8]


def compose(catalogue: Catalogue, seed: int, *, task: str | None = None) -> Iterator[Example]:
    """Examples without end, of one task or of all in the shares above. No held-out entity is in any of them."""
    number = 0
    while True:
        rng = Random(f"{seed}:{task}:{number}")
        name = task or rng.choices(list(TASK_SHARES), list(TASK_SHARES.values()))[0]
        example = COMPOSERS[name](catalogue, rng)
        if rng.random() < _WITH_CO_QUERIES[name]:
            example = annotated(catalogue, example, rng)
        if len({match_key(query) for query in example.queries}) == len(example.queries):
            yield example
        number += 1


def pick_kind(catalogue: Catalogue, rng: Random) -> Kind:
    """A kind; the generic ones more often than their number."""
    generic = rng.random() < _GENERIC
    return rng.choice([kind for kind in catalogue.kinds if kind.generic == generic])


def pick_entity(catalogue: Catalogue, kind: Kind, rng: Random, *, made_up: float = _MADE_UP) -> str:
    """A training entity of the kind, or, in a share `made_up`, one that nobody has heard of."""
    if rng.random() < made_up:
        return unseen_name(catalogue, kind, rng)
    return rng.choice(kind.training)


def queries_in_a_row(catalogue: Catalogue, seed: int) -> Iterator[tuple[str, ...]]:
    """What people typed one after the other about one thing, without end: two to five queries, and no prompt.

    The cheapest way to learn what is a city and what is a dish: three times as many names as in as many tokens of
    `compose`.
    """
    for number in count():
        rng = Random(f"{seed}:in a row:{number}")
        kind = pick_kind(catalogue, rng)
        entity = pick_entity(catalogue, kind, rng, made_up=_MADE_UP / 2)
        facet, query = question(kind, entity, rng)
        yield query, *follow_ups(kind, facet, entity, rng.randint(1, 4), {match_key(query)}, rng)


def suggest(catalogue: Catalogue, rng: Random) -> Example:
    """A query with or without its answer, session and documents -> what is clicked next."""
    kind = pick_kind(catalogue, rng)
    entity, n = pick_entity(catalogue, kind, rng), rng.choice(_LENGTHS)
    facet, query = question(kind, entity, rng)
    session = _session(catalogue, kind, entity, facet, rng) if rng.random() < 0.3 else ()
    asked = {match_key(text) for text in (query, *session)}
    queries = follow_ups(kind, facet, entity, n, asked, rng)
    return Example(
        task="suggest",
        context=PromptContext(
            n=n,
            query=as_typed(query, entity, rng),
            session=session,
            answer=facet.answer.replace("{e}", entity).lower() if rng.random() < 0.3 else None,
            documents=_documents(kind, facet, entity, rng) if rng.random() < 0.05 else (),
        ),
        queries=tuple(queries),
        entity=entity,
        kind=kind.name,
        facet=facet.id,
    )


def hint(catalogue: Catalogue, rng: Random) -> Example:
    """A session -> the next query of the same need."""
    kind = pick_kind(catalogue, rng)
    entity, n = pick_entity(catalogue, kind, rng), rng.choice([1] * 8 + [2, 3])
    facet = rng.choice(kind.facets)
    session = walk(kind, facet, entity, rng.randint(1, 4), rng)
    last = session[-1][0]
    texts = [query for _, query in session]
    queries = follow_ups(kind, last, entity, n, {match_key(text) for text in texts}, rng)
    return Example(
        task="hint",
        context=PromptContext(n=n, session=tuple(as_typed(text, entity, rng) for text in texts)),
        queries=tuple(queries),
        entity=entity,
        kind=kind.name,
        facet=last.id,
    )


def clarify(catalogue: Catalogue, rng: Random) -> Example:
    """An ambiguous word, or a thing without a wish -> a question and options to click."""
    if rng.random() < 0.4:
        return _clarify_word(catalogue, rng.choice(catalogue.words), rng)
    kind = pick_kind(catalogue, rng)
    entity, n = pick_entity(catalogue, kind, rng), rng.choice([5, 5, 5, 4, 3])
    facets = list(kind.facets[:8])
    rng.shuffle(facets)
    options = [ask(f, entity, rng) if rng.random() < 0.5 else f"{entity} {f.label}" for f in facets[:n]]
    question = rng.choice(catalogue.general_questions).replace("{e}", entity)
    return Example(
        task="clarify",
        context=PromptContext(n=n, query=as_typed(bare(kind, entity, rng), entity, rng)),
        queries=tuple(options),
        texts={"question": question},
        entity=entity,
        kind=kind.name,
    )


def predict(catalogue: Catalogue, rng: Random) -> Example:
    """A long-term history about one to three interests -> next queries, spread over them, the last one first."""
    n = rng.choice([3, 3, 3, 10])
    walks = []
    for _ in range(rng.randint(1, 3)):
        kind = pick_kind(catalogue, rng)
        entity = pick_entity(catalogue, kind, rng)
        walks.append((kind, entity, walk(kind, rng.choice(kind.facets), entity, rng.randint(2, 4), rng)))
    history = _interleaved(walks, rng)
    asked = {match_key(event.text) for event in history}
    per_interest = [
        follow_ups(kind, steps[-1][0], entity, min(n, 8), asked, rng) for kind, entity, steps in reversed(walks)
    ]
    queries = distinct([query for row in zip(*per_interest, strict=True) for query in row], n, asked)
    return Example(
        task="predict",
        context=PromptContext(n=n, history=history),
        queries=tuple(queries),
        entity=walks[-1][1],
        kind=walks[-1][0].name,
        facet=walks[-1][2][-1][0].id,
    )


def snippets(catalogue: Catalogue, rng: Random) -> Example:
    """A creative-writing request -> a guiding sentence, a prefix, a suffix and short refinements."""
    form = rng.choice(catalogue.forms)
    n = rng.choice([8] * 7 + [4, 6, 12])
    subject = rng.choice(form.subjects) if rng.random() < 0.6 else _subject(catalogue, rng)
    prefix, suffix = rng.choice(form.wrappers)
    answered = rng.random() < 0.25
    request = rng.choice(form.requests).replace("{s}", subject)
    return Example(
        task="snippets",
        context=PromptContext(
            n=n,
            query=as_typed(request, subject, rng),
            answer=form.answer.replace("{s}", subject).lower() if answered else None,
        ),
        queries=tuple(_snippets_of(form, n, rng)),
        texts={"guide": rng.choice(form.guiding), "prefix": prefix, "suffix": suffix},
        entity=subject,
        kind=form.id,
    )


COMPOSERS: dict[str, Callable[[Catalogue, Random], Example]] = {
    "suggest": suggest,
    "hint": hint,
    "clarify": clarify,
    "predict": predict,
    "snippets": snippets,
}


def _session(catalogue: Catalogue, kind: Kind, entity: str, facet: Facet, rng: Random) -> tuple[str, ...]:
    """Up to three earlier queries: of the same need mostly, sometimes of another."""
    if rng.random() < 0.2:
        kind = pick_kind(catalogue, rng)
        entity, facet = pick_entity(catalogue, kind, rng), rng.choice(kind.facets)
    before = [other for other in kind.facets if facet.id in other.next] or list(kind.facets)
    steps = walk(kind, rng.choice(before), entity, rng.randint(1, 3), rng)
    return tuple(as_typed(query, entity, rng) for other, query in steps if other.id != facet.id)


def _documents(kind: Kind, facet: Facet, entity: str, rng: Random) -> tuple[str, ...]:
    facets = [facet, rng.choice(kind.facets)][: rng.randint(1, 2)]
    return tuple(other.answer.replace("{e}", entity).lower() for other in facets)


def _clarify_word(catalogue: Catalogue, word: AmbiguousWord, rng: Random) -> Example:
    options = list(word.senses)
    options += [f"{word.word} {about}" for about in word.abouts if about not in " ".join(word.senses)]
    n = rng.choice([5, 5, 5, 4, 3])
    return Example(
        task="clarify",
        context=PromptContext(n=n, query=word.word),
        queries=tuple(distinct(options, n, set())),
        texts={"question": rng.choice(word.questions)},
        entity=word.word,
        kind="ambiguous",
    )


def _interleaved(walks: list[tuple[Kind, str, list[tuple[Facet, str]]]], rng: Random) -> tuple[HistoryEvent, ...]:
    """The events of all walks in one order; each walk keeps its own, and the last walk ends it."""
    left = [[(kind, entity, step) for step in steps] for kind, entity, steps in walks]
    events = []
    while any(left):
        choices = [steps for steps in left if steps and (steps is not left[-1] or len(steps) > 1 or not any(left[:-1]))]
        kind, entity, (facet, query) = rng.choice(choices).pop(0)
        events.append(_event(kind, entity, facet, query, rng))
    return tuple(events)


def _event(kind: Kind, entity: str, facet: Facet, query: str, rng: Random) -> HistoryEvent:
    source = rng.choices(list(EventSource), [0.5, 0.25, 0.1, 0.15])[0]
    if source is EventSource.SEARCH:
        return HistoryEvent(source=source, text=as_typed(query, entity, rng))
    if source is EventSource.PURCHASE:
        return HistoryEvent(source=source, text=rng.choice([entity, f"{entity} {model_number(rng)}", query]))
    return HistoryEvent(source=source, text=rng.choice([query, f"{entity} {facet.label}", f"{entity}: {facet.label}"]))


def _subject(catalogue: Catalogue, rng: Random) -> str:
    kind = pick_kind(catalogue, rng)
    other = rng.choice(rng.choice(catalogue.forms).subjects)
    return rng.choice([pick_entity(catalogue, kind, rng), other])


def _snippets_of(form: Form, n: int, rng: Random) -> list[str]:
    """Snippets of every group in turn, so that a list offers different directions."""
    groups = [rng.sample(group, len(group)) for group in form.snippets]
    rng.shuffle(groups)
    longest = max(len(group) for group in groups)
    return distinct([group[i] for i in range(longest) for group in groups if i < len(group)], n, set())
