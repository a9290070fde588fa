"""Clicks as the reward of tokens: gains stand where queries end, and add up to the reward of the list."""

import numpy as np
import pytest

from ctr.predictor import list_reward
from service.contract.types import PromptContext
from trainer.ppo.rollout import rollout
from trainer.prompts import prompt_of
from trainer.rewards import AtTheEnd, Mixed
from trainer.rewards.ctr import CtrReward


class Clicks:
    """A predictor by which the k-th query of a list has probability k / 10."""

    def p_click_lists(self, lists):
        return [np.arange(1, len(queries) + 1) / 10 for _, queries in lists]


@pytest.fixture
def source(tokenizer):
    return CtrReward(Clicks(), tokenizer)


def _written(tokenizer, text, task="suggest", n=3, cut=False):
    ids = tokenizer.encode_response(text.replace("|", tokenizer.format.separator))
    context = PromptContext(n=n, query="rice")
    return rollout(prompt_of(task, context), (1,), ids[:-1] if cut else ids, tokenizer)


@pytest.mark.parametrize(
    "queries", [["how to cook rice"], ["rice cooker", "rice recipes", "best rice"], ["rice 🍚!", "rice 米"]]
)
def test_gains_stand_at_the_ends_of_queries_and_add_up_to_equation_3(source, tokenizer, queries):
    written = _written(tokenizer, "|".join(queries))

    [earned] = source.earned([written])

    ends = [
        k for k, token in enumerate(written.response.ids) if token in (*tokenizer.separator_ids, *tokenizer.eos_ids)
    ]
    p = [k / 10 for k in range(1, len(queries) + 1)]
    gains = [list_reward(p[: k + 1], False) - list_reward(p[:k], False) for k in range(len(queries))]
    assert [earned[k] for k in ends] == pytest.approx(gains)
    assert sum(earned) == pytest.approx(list_reward(p, False))
    assert {k for k, value in enumerate(earned) if value} == set(ends)


def test_a_single_choice_adds_up_to_equation_4(source, tokenizer):
    [earned] = source.earned([_written(tokenizer, "rice cooker|rice recipes", task="clarify")])

    assert sum(earned) == pytest.approx(0.1 + 0.2)


def test_a_repeated_query_and_one_too_many_earn_nothing(source, tokenizer):
    once, twice = (
        source.earned([_written(tokenizer, text, n=2)])[0]
        for text in ("rice cooker|rice recipes", "rice cooker|rice cooker|rice recipes|best rice")
    )

    assert sum(twice) == pytest.approx(sum(once))


def test_a_query_that_was_cut_earns_nothing_and_those_before_it_do(source, tokenizer):
    [earned] = source.earned([_written(tokenizer, "rice cooker|rice recipes", cut=True)])

    assert sum(earned) == pytest.approx(0.1)


@pytest.mark.parametrize("text", ["", "|", "!!"])
def test_a_response_that_says_nothing_earns_nothing(source, tokenizer, text):
    written = _written(tokenizer, text)

    [earned] = source.earned([written])

    assert earned == [0.0] * len(written.response.ids)


def test_sources_are_mixed_by_weight_and_paid_at_the_end_as_a_sum(source, tokenizer):
    written = _written(tokenizer, "rice cooker|rice recipes")
    [earned] = source.earned([written])

    [mixed] = Mixed({source: 0.5, AtTheEnd(source): 2.0}).earned([written])

    expected = [0.5 * value for value in earned]
    expected[-1] += 2.0 * sum(earned)
    assert mixed == pytest.approx(expected)


def test_a_reward_of_a_response_is_paid_at_its_last_token():
    class Pays:
        name, is_model = "pays", False

        def earned(self, rollouts):
            return [[1.5, 0.5], [1.0, 1.0, 1.0], []]

    assert AtTheEnd(Pays()).earned([]) == [[0.0, 2.0], [0.0, 0.0, 3.0], []]
