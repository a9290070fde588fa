"""Sources of rewards: found by their files, one reward a token, and what nobody can say is not learnt from."""

import pytest
import torch

from service.contract.errors import ConfigurationError
from service.contract.policy import load_policy
from service.contract.types import EventSource, HistoryEvent, PromptContext
from trainer.ppo.rollout import rollout
from trainer.prompts import prompt_of
from trainer.rewards import AtTheEnd, Given, LessMissing, Mixed, get_source, names
from trainer.rewards.judge import JudgeReward
from trainer.rewards.sentence_model import SentenceModelReward
from trainer.rewards.token_model import TokenModelReward
from trainer.token_reward.model import new_model, save_model, scores
from trainer.word_judges import Judgement


@pytest.fixture(scope="module")
def policy(tiny_policy):
    return load_policy(tiny_policy)


def _written(policy, *texts):
    context = PromptContext(n=3, history=(HistoryEvent(source=EventSource.SEARCH, text="rice"),))
    prompt, tokenizer = prompt_of("predict", context), policy.tokenizer
    responses = [tokenizer.encode_response(text.replace("|", tokenizer.format.separator)) for text in texts]
    return [rollout(prompt, (5, 6, 7), ids, tokenizer) for ids in responses]


@pytest.fixture(scope="module")
def given(policy, tmp_path_factory):
    place = tmp_path_factory.mktemp("models")
    for level in ("token", "sentence"):
        torch.manual_seed(1)
        model = new_model(policy, level, looks_ahead=True)
        save_model(model, policy, place / level, version=level, card="# rm\n")
    models = {"token_model": place / "token", "sentence_model": place / "sentence"}
    return Given(policy=policy, models=models, judge="embedding", suggested_length=10.0)


@pytest.mark.parametrize("name", sorted({*names()} - {"ctr"}))
def test_every_source_pays_one_reward_a_token(name, policy, given):
    written = _written(policy, "how to cook rice|rice cooker", "zebra", "")

    earned = get_source({name: 1.0}, given).earned(written)

    assert [len(each) for each in earned] == [len(each.response.ids) for each in written]
    assert all(isinstance(value, float) for each in earned for value in each)


def test_sources_are_found_by_their_files_and_others_refused(given):
    assert names() == ["ctr", "judge", "sentence_model", "token_model"]
    with pytest.raises(ConfigurationError, match="ctr, judge, sentence_model, token_model"):
        get_source({"applause": 1.0}, given)
    with pytest.raises(ConfigurationError, match="no reward to learn from"):
        get_source({}, given)


@pytest.mark.parametrize("name", ["ctr", "token_model", "sentence_model"])
def test_a_source_that_lacks_what_it_needs_says_how_to_make_it(name, policy):
    with pytest.raises(ConfigurationError, match="nextquery"):
        get_source({name: 1.0}, Given(policy=policy))


def test_the_token_model_pays_the_expected_class_over_the_suggested_length(policy, given):
    written = _written(policy, "how to cook rice|rice cooker")
    source = get_source({"token_model": 1.0}, given)
    assert isinstance(source, TokenModelReward)

    [earned] = source.earned(written)

    [p] = scores(source._model, [written[0].prompt_ids], [written[0].response.ids])
    expected = ((p[:, 2] - p[:, 1]) / 10.0).tolist()
    # Eq. 4 at the second token: 1 / (1 + e^(1 (2 - 10) - 6)) is .9999992, so that nothing is taken so early.
    assert earned[:3] == pytest.approx(expected[:3], rel=1e-4)


def test_the_sentence_model_pays_once_where_the_response_ends(policy, given):
    written = _written(policy, "how to cook rice|rice cooker")
    source = get_source({"sentence_model": 1.0}, given)
    assert isinstance(source, SentenceModelReward)

    [earned] = source.earned(written)

    [p] = scores(source._model, [written[0].prompt_ids], [written[0].response.ids])
    assert not any(earned[:-1])
    assert earned[-1] == pytest.approx(2 * float(p) - 1)


class Silent:
    """Comes to a verdict about what says rice only; every word of that is relevant, but not `zebra`."""

    name, spent = "silent", {}

    def judge(self, asked):
        return [
            Judgement(tuple(tuple(word != "zebra" for word in words) for words in each.words), True)
            if any("rice" in query for query in each.queries)
            else None
            for each in asked
        ]


def test_a_judge_pays_each_token_by_its_word_and_says_nothing_where_it_has_no_verdict(policy):
    source = JudgeReward(Silent(), {}, values="centred", suggested_length=4.0, alpha=None)

    first, second = source.earned(_written(policy, "rice|zebra", "tea"))

    assert second is None
    separator = next(k for k, value in enumerate(first) if value == 0.0)
    assert first[:separator] == [0.25] * separator
    assert set(first[separator + 1 : -1]) == {-0.25}
    assert first[-1] == 0.0


def test_what_one_source_cannot_say_no_mixture_makes_up(policy):
    source = JudgeReward(Silent(), {}, values="centred", suggested_length=4.0, alpha=None)

    rice, tea = Mixed({source: 1.0, AtTheEnd(source): 1.0}).earned(_written(policy, "rice", "tea"))

    assert sum(rice) == pytest.approx(2 * (len(rice) - 1) * 0.25)
    assert tea is None


def test_a_list_that_lacks_queries_is_fined_at_its_last_token(policy):
    class Nothing:
        name, is_model = "nothing", False

        def earned(self, rollouts):
            return [[0.0] * len(each.response.ids) for each in rollouts]

    whole, two, none = LessMissing(Nothing(), 0.6).earned(_written(policy, "rice|tea|pot", "rice|tea", "!!"))

    assert sum(whole) == 0.0
    assert two[-1] == sum(two) == pytest.approx(-0.2)  # one of three is missing
    assert none[-1] == sum(none) == pytest.approx(-0.6)


def test_a_fine_makes_up_no_reward_where_there_is_none(policy):
    class Unknown:
        name, is_model = "unknown", False

        def earned(self, rollouts):
            return [None, []]

    assert LessMissing(Unknown(), 0.6).earned(_written(policy, "rice", "")) == [None, []]
