"""What a policy wrote, in figures: AEC, repetitions, whole lists, length."""

import pytest

from ctr.predictor import list_reward
from service.contract.types import PromptContext
from tests.trainer.known_policy import KnownEngine, KnownPredictor, known_policy
from trainer.assess import assess, write
from trainer.prompts import prompt_of

RICE = prompt_of("suggest", PromptContext(n=3, query="rice"))
TEA = prompt_of("suggest", PromptContext(n=3, query="tea"))


async def written(texts):
    engine = KnownEngine(lambda query, so_far, sampling: [texts[query]])
    return await write(engine, known_policy(), [RICE, TEA])


async def test_aec_is_the_mean_list_reward_of_one_response_a_prompt():
    p = {"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.4}
    found = assess(
        await written({"rice": "a<sep>b<sep>c", "tea": "d"}), {"judge": KnownPredictor(lambda query, above: p[query])}
    )

    rewards = [1 - 0.9 * 0.8 * 0.7, 0.4]  # eq. 3
    assert found.aec == {"judge": pytest.approx(sum(rewards) / 2)}
    assert rewards[0] == pytest.approx(list_reward([0.1, 0.2, 0.3], single_choice=False))


async def test_a_query_that_stands_above_or_was_asked_is_repeated():
    found = assess(await written({"rice": "a<sep>A?<sep>rice", "tea": "b<sep>c<sep>d"}), {})

    assert found.duplicate_share == pytest.approx(2 / 7)  # of rice: a, rice and once more a; of tea: three
    assert found.parse_failures == 0.0


async def test_a_response_without_a_query_is_a_failure_that_earns_nothing():
    found = assess(await written({"rice": "", "tea": "d"}), {"judge": KnownPredictor(lambda query, above: 0.4)})

    assert found.parse_failures == 0.5
    assert found.aec["judge"] == pytest.approx(0.2)


async def test_the_same_seed_writes_the_same_and_another_asks_otherwise():
    engine = KnownEngine(lambda query, so_far, sampling: ["a<sep>b"])

    for seed in (0, 0, 1):
        await write(engine, known_policy(), [RICE], seed=seed)

    seeds = [sampling.seed for _, _, sampling in engine.asked]
    assert seeds[0] == seeds[1] != seeds[2]
