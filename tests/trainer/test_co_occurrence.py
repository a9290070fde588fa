"""Lists are annotated as GQR 3.3 asks: uniformly none to N_REF of their queries take up what people typed next."""

from collections import Counter
from itertools import islice
from random import Random

import pytest

from service.contract.query_text import match_key
from trainer.catalogue.catalogue import load_catalogue
from trainer.catalogue.co_occurrence import N_REF, annotated
from trainer.catalogue.compose import COMPOSERS, TASK_SHARES, compose
from trainer.catalogue.example import Example


def plain_and_annotated(task: str, count: int) -> list[tuple[Example, Example]]:
    catalogue = load_catalogue()
    pairs = []
    for number in range(count):
        rng = Random(f"{task}:{number}")
        plain = COMPOSERS[task](catalogue, rng)
        pairs.append((plain, annotated(catalogue, plain, rng)))
    return pairs


@pytest.mark.parametrize("task", TASK_SHARES)
def test_the_list_keeps_its_queries_and_is_led_by_those_that_are_pertinent(task: str) -> None:
    for plain, example in plain_and_annotated(task, 200):
        assert sorted(example.queries) == sorted(plain.queries)
        assert example.texts == plain.texts
        assert 1 <= len(example.context.co_queries) <= N_REF + 5


def test_every_number_of_pertinent_queries_is_as_frequent_as_any_other() -> None:
    counts: Counter[int] = Counter()
    of_three = [pair for pair in plain_and_annotated("suggest", 4000) if len(pair[0].queries) == 3]

    for _, example in of_three:
        exactly = {match_key(text) for text in example.context.co_queries}
        counts[sum(match_key(text) in exactly for text in example.queries)] += 1

    # Slips of the fingers hide some: with one query in ten misspelt, a quarter becomes between .19 and .33 for each.
    shares = [counts[number] / len(of_three) for number in range(N_REF + 1)]
    assert sum(shares) == pytest.approx(1.0)
    assert all(0.18 < share < 0.35 for share in shares)


def test_a_list_of_one_takes_up_one_or_none() -> None:
    examples = [example for plain, example in plain_and_annotated("hint", 2000) if len(plain.queries) == 1]

    taken = [match_key(each.queries[0]) in {match_key(t) for t in each.context.co_queries} for each in examples]

    assert 0.4 < sum(taken) / len(taken) < 0.55


def test_the_rest_of_a_list_is_independent_of_what_people_typed_next() -> None:
    for _, example in plain_and_annotated("suggest", 500):
        shown = {match_key(text) for text in example.context.co_queries}
        is_taken = [match_key(text) in shown for text in example.queries]

        assert not any(is_taken[N_REF:])


@pytest.mark.parametrize("task", TASK_SHARES)
def test_some_prompts_of_every_task_have_them_and_some_have_not(task: str) -> None:
    examples = list(islice(compose(load_catalogue(), seed=3, task=task), 300))

    share = sum(bool(example.context.co_queries) for example in examples) / len(examples)

    assert 0.08 < share < 0.4
