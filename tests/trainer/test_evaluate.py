"""The figures of a policy, worked out by hand."""

import asyncio
from pathlib import Path

import pytest

from service.contract.engine import Completion
from service.contract.policy import Decoding, Policy
from service.contract.types import PromptContext
from trainer.catalogue.catalogue import load_catalogue
from trainer.catalogue.example import Example
from trainer.evaluate import Written, evaluate, known_names, on_kind_share, score


def _suggest(entity: str, n: int = 3) -> Example:
    return Example(task="suggest", context=PromptContext(n=n, query=f"about {entity}"), entity=entity)


def test_the_shares_are_counted_over_lists_and_over_queries():
    written = [
        Written(_suggest("kyoto"), " kyoto weather<sep> Kyoto hotels<sep> food in kyoto", finished=True),
        # one repeated (so not all 3 parse), two without the entity
        Written(_suggest("zentra x450"), " zentra x450 price<sep> zentra price<sep> zentra price", finished=True),
        # not finished; the fourth query is one too many and does not count
        Written(_suggest("lisbon"), " lisbon a<sep> lisbon b<sep> lisbon c<sep> d", finished=False),
        # a list of two where three were wanted
        Written(_suggest("oslo"), " oslo fjord<sep> ferry to oslo", finished=True),
    ]

    quality = score(written, "<sep>")

    assert quality.lists == 4
    assert quality.parse_ok_share == 1 / 4
    assert quality.on_entity_share == (3 + 1 + 3 + 2) / (3 + 3 + 3 + 2)
    assert quality.distinct_share == (3 + 2 + 3 + 2) / (3 + 3 + 3 + 2)


def test_a_query_fits_when_the_catalogue_has_it_for_a_kind_of_that_name():
    example = Example(task="suggest", context=PromptContext(n=3, query="kyoto"), entity="kyoto")
    texts = [
        " what to eat in kyoto?<sep> Kyoto vs osaka<sep> how to calm skin after kyoto",
        " kyoto getting around<sep> where to stay in paris",
        "",
    ]

    share = on_kind_share([Written(example, text, finished=True) for text in texts], "<sep>")

    assert share == 3 / 5


def test_known_names_are_names_of_training_and_nothing_else():
    trained = {entity.name for entity in load_catalogue().entities if not entity.held_out}

    examples = known_names(50)

    assert len(examples) == 50
    assert all(example.entity in trained and example.context.query == example.entity for example in examples)
    assert examples == known_names(50)


def test_a_missing_auxiliary_text_is_no_parsed_list():
    context = PromptContext(n=1, query="jaguar")
    example = Example(task="clarify", context=context, entity="jaguar")

    without = score([Written(example, " jaguar car", finished=True)], "<sep>")
    with_it = score([Written(example, " question: which?\n jaguar car", finished=True)], "<sep>")

    assert (without.parse_ok_share, with_it.parse_ok_share) == (0.0, 1.0)


def test_an_empty_completion_counts_against_the_policy():
    quality = score([Written(_suggest("kyoto"), "", finished=True)], "<sep>")

    assert (quality.parse_ok_share, quality.on_entity_share, quality.distinct_share) == (0.0, 0.0, 0.0)


def test_the_engine_is_asked_as_serving_asks_it(tokenizer):
    engine = _Echo(tuple(tokenizer.encode_response("kyoto a<sep>kyoto b<sep>kyoto c")[:-1]))
    decoding = Decoding(temperature=0.4, top_p=0.9, presence_penalty=1.5)
    policy = Policy("p", Path(), tokenizer, ("en",), decoding=decoding)

    quality, [written] = asyncio.run(evaluate(engine, policy, [_suggest("kyoto")]))

    [sampling] = engine.asked
    assert (sampling.temperature, sampling.top_p, sampling.presence_penalty) == (0.4, 0.9, 1.5)
    assert sampling.stop_token_ids == tokenizer.eos_ids
    assert written.text == " kyoto a<sep> kyoto b<sep> kyoto c"
    assert quality.parse_ok_share == pytest.approx(1.0)


class _Echo:
    name = "echo"

    def __init__(self, token_ids):
        self.token_ids, self.asked = token_ids, []

    async def generate(self, request_id, prompt_token_ids, sampling, adapter=None):
        self.asked.append(sampling)
        return [Completion(token_ids=self.token_ids, token_logprobs=(0.0,) * len(self.token_ids), finish_reason="stop")]
