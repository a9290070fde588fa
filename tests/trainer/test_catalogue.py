"""The catalogue's data and the examples composed from it."""

from collections import Counter
from itertools import islice
from random import Random

import pytest

from service.contract.query_text import match_key
from service.contract.tasks import all_tasks
from trainer.catalogue.asking import ask
from trainer.catalogue.catalogue import load_catalogue, reserved, word_runs
from trainer.catalogue.compose import TASK_SHARES, compose, queries_in_a_row
from trainer.catalogue.names import unseen_name
from trainer.catalogue.typing_noise import as_typed
from trainer.evaluate import unseen_queries
from trainer.rewriters.catalogue import rewrite

CATALOGUE = load_catalogue()
EXAMPLES = list(islice(compose(CATALOGUE, 11), 4000))


def test_the_catalogue_is_broad():
    entities = list(CATALOGUE.entities)

    assert len(CATALOGUE.kinds) >= 50
    assert len(entities) >= 4000
    assert len({kind.topic for kind in CATALOGUE.kinds}) >= 10


@pytest.mark.parametrize("kind", CATALOGUE.kinds, ids=lambda kind: kind.name)
def test_every_relation_leads_to_another_facet_of_the_kind(kind):
    for relation in kind.relations:
        assert relation.before in kind.facet
        assert relation.after in kind.facet
        assert relation.before != relation.after
    assert {relation.before for relation in kind.relations} == set(kind.facet)


@pytest.mark.parametrize("kind", CATALOGUE.kinds, ids=lambda kind: kind.name)
def test_every_ask_names_its_entity_and_nothing_else(kind):
    for facet in kind.facets:
        for text in [*facet.asks, facet.answer]:
            filled = text.replace("{e}", "zentra x450")
            assert "zentra x450" in filled
            assert "{" not in filled
            assert "}" not in filled
    for text in kind.compare:
        assert "{" not in text.replace("{e}", "a").replace("{f}", "b")


def test_about_one_entity_in_ten_is_held_out():
    share = sum(entity.held_out for entity in CATALOGUE.entities) / sum(1 for _ in CATALOGUE.entities)

    assert 0.07 <= share <= 0.13


def test_no_held_out_entity_occurs_in_a_training_example():
    held_out = CATALOGUE.held_out

    for example in EXAMPLES:
        context = example.context
        texts = [context.query or "", *context.session, *(event.text for event in context.history), *example.queries]
        for text in [*texts, *context.co_queries, context.answer or ""]:
            assert not held_out.intersection(word_runs(text)), (text, example.entity)
    for queries in islice(queries_in_a_row(CATALOGUE, seed=4), 2_000):
        assert not held_out.intersection(run for query in queries for run in word_runs(query)), queries


def test_names_for_evaluation_and_for_training_are_never_the_same():
    rng = Random(5)

    for kind in CATALOGUE.kinds:
        assert reserved(unseen_name(CATALOGUE, kind, rng, for_evaluation=True))
        assert not reserved(unseen_name(CATALOGUE, kind, rng))


def test_the_evaluation_asks_about_entities_that_training_never_names():
    trained = {example.entity for example in EXAMPLES}

    queries = unseen_queries()

    assert len(queries) == 500
    assert not trained & {example.entity for example in queries}


def test_the_same_seed_composes_the_same_examples():
    again = list(islice(compose(CATALOGUE, 11), 50))
    other = list(islice(compose(CATALOGUE, 12), 50))

    assert again == EXAMPLES[:50]
    assert other != EXAMPLES[:50]


def test_every_task_is_composed_in_its_share():
    counts = Counter(example.task for example in EXAMPLES)

    assert set(counts) == set(all_tasks()) == set(TASK_SHARES)
    for task, share in TASK_SHARES.items():
        assert counts[task] / len(EXAMPLES) == pytest.approx(share, abs=0.03)


def test_every_list_has_distinct_queries_and_at_most_n():
    for example in EXAMPLES:
        keys = [match_key(query) for query in example.queries]
        assert len(set(keys)) == len(keys)
        assert 1 <= len(keys) <= example.context.n
        assert set(example.texts) == set(all_tasks()[example.task].auxiliary)


def test_suggested_queries_are_as_many_as_asked_for_and_not_asked_before():
    suggests = [example for example in EXAMPLES if example.task == "suggest"]

    for example in suggests:
        assert len(example.queries) == example.context.n
        assert not set(example.queries) & {example.context.query, *example.context.session}


def test_queries_in_a_row_are_distinct_and_the_same_for_the_same_seed():
    rows = list(islice(queries_in_a_row(CATALOGUE, seed=4), 200))

    assert rows == list(islice(queries_in_a_row(CATALOGUE, seed=4), 200))
    for queries in rows:
        assert 2 <= len(queries) == len({match_key(query) for query in queries}) <= 5


def test_nearly_every_suggested_query_names_its_entity():
    listed = [(query, example.entity) for example in EXAMPLES if example.task == "suggest" for query in example.queries]

    named = sum(entity in query for query, entity in listed)

    assert named / len(listed) >= 0.93


def test_a_typing_slip_never_touches_the_entity():
    rng = Random(2)

    for _ in range(300):
        typed = as_typed("how to repot a zamioculcas in winter", "zamioculcas", rng, share=1.0)
        assert "zamioculcas" in typed.split()


def test_a_rewrite_says_the_same_in_other_words():
    kind = CATALOGUE.kind["generic_concept"]
    facet = kind.facet["history"]
    example = next(
        example
        for example in compose(CATALOGUE, 4, task="suggest")
        if example.kind == kind.name and example.facet == facet.id
        if example.context.query in {ask.replace("{e}", example.entity) for ask in facet.asks}
    )

    rewritten = {rewrite(CATALOGUE, example, Random(seed)).context.query for seed in range(40)}

    assert rewritten == {ask.replace("{e}", example.entity) for ask in facet.asks}


def test_an_ask_is_filled_literally():
    facet = CATALOGUE.kind["generic_action"].facet["method"]

    text = ask(facet, r"fold \1 {x}", Random(0))

    assert r"fold \1 {x}" in text
