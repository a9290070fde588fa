"""Relevance of policies: rates, duels with the order swapped, and chance (TPPO 4)."""

import pytest

from service.contract.errors import ConfigurationError
from service.contract.types import EventSource, HistoryEvent, PromptContext
from tests.trainer.known_policy import KnownEngine, known_policy
from trainer.prompt_files import KnownPrompt
from trainer.prompts import prompt_of
from trainer.relevance import Judged, duel, duels, judged, relevance
from trainer.word_judges import GradingJudge, Judgement


class Rice(GradingJudge):
    """Rice is relevant; the more of it, the better. It comes to no verdict about tea."""

    name = "rice"

    def __init__(self):
        super().__init__(enough=0.5, lead=0.1)

    def judge(self, asked):
        words = [tuple(tuple(word == "rice" for word in query) for query in each.words) for each in asked]
        return [
            None if any("tea" in query for query in each.queries) else Judgement(found, any(map(any, found)))
            for each, found in zip(asked, words, strict=True)
        ]

    def grades(self, asked):
        return [float(sum("rice" in query for query in each.queries)) for each in asked]


class Partial(Rice):
    """Votes for whatever stands first."""

    def votes(self, pairs):
        return ["first" for _ in pairs]


def _prompts(count):
    history = [(HistoryEvent(source=EventSource.SEARCH, text=f"rice {number}"),) for number in range(count)]
    return [KnownPrompt(prompt=prompt_of("predict", PromptContext(n=2, history=each))) for each in history]


async def _judged(writes, count=8, judge=None, **how):
    return await judged(KnownEngine(writes), known_policy(), _prompts(count), judge or Rice(), **how)


def _always(text):
    return lambda query, so_far, sampling: [text]


def _by_prompt(*texts):
    """One text a prompt, in turn of their seeds, which are the same for every policy."""
    seeds = []

    def writes(query, so_far, sampling):
        if sampling.seed not in seeds:
            seeds.append(sampling.seed)
        return [texts[seeds.index(sampling.seed) % len(texts)]]

    return writes


async def test_rates_are_of_what_was_judged_and_failures_of_all():
    found = relevance(await _judged(_by_prompt("rice<sep>pot", "zebra<sep>pot", "tea<sep>rice", "rice")))

    assert found.words_first == pytest.approx(4 / 6)  # of tea there is no verdict
    assert found.sentence == pytest.approx(6 / 8)
    assert found.unjudged == 2
    assert found.failures == 0.25  # one query of two
    assert found.kl is None


async def test_a_served_response_is_written_as_a_service_would():
    engine = KnownEngine(_always("rice"))

    await judged(engine, known_policy(temperature=0.3), _prompts(2), Rice(), served=True)
    await judged(engine, known_policy(temperature=0.3), _prompts(2), Rice())

    assert [sampling.temperature for _, _, sampling in engine.asked] == [0.3, 0.3, 1.0, 1.0]
    assert engine.asked[0][2].distinct is not None


async def test_a_duel_counts_wins_ties_and_losses_and_whom_chance_would_favour():
    mine = await _judged(_always("rice<sep>pot"))
    theirs = await _judged(_by_prompt("zebra<sep>pot", "rice<sep>pan", "rice<sep>rice pot", "zebra<sep>cat"))

    found = duel(mine, theirs, Rice())

    assert (found.wins, found.ties, found.losses) == (4, 2, 2)
    assert (found.gained, found.lost) == (4, 0)
    assert found.p == pytest.approx(2 * 0.5**4)  # by hand: four of four one way, both tails


async def test_a_judge_that_goes_by_the_order_makes_ties():
    mine, theirs = await _judged(_always("rice")), await _judged(_always("zebra"))

    found = duel(mine, theirs, Partial())

    assert (found.wins, found.ties, found.losses) == (0, 8, 0)


async def test_three_policies_have_three_duels():
    written = {name: await _judged(_always(text)) for name, text in (("sft", "cat"), ("ppo", "rice"), ("tppo", "rice"))}

    found = duels(written, Rice())

    assert list(found) == ["tppo against ppo", "tppo against sft", "ppo against sft"]
    assert found["tppo against sft"].wins == 8
    assert found["tppo against ppo"].p == 1.0


def test_nothing_to_judge_is_refused():
    with pytest.raises(ConfigurationError, match="no prompts"):
        relevance(Judged(written=(), asked=(), words_first=(), sentence=()))
