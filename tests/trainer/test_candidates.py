"""The search is Algorithm 1, lines 2 to 24: compared with the plain loops, and with every list there is."""

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from ctr.predictor import list_reward
from service.contract.engine import Sampling
from service.contract.errors import ArtifactError, ConfigurationError
from service.contract.query_text import match_key
from service.contract.settings import STARTER, Settings
from service.contract.types import PromptContext
from tests.fakes import own_tokenizer
from tests.trainer.known_policy import (
    PLAIN,
    RICE,
    TEA,
    WORDS,
    KnownEngine,
    KnownPredictor,
    SameWords,
    chosen,
    known_policy,
    p_by_hash,
    search_with,
    words_of_topic,
)
from trainer.candidates import Candidates, CandidateSearch, SearchConfig
from trainer.candidates.query_sampler import seed_of
from trainer.prompts import AlignmentPrompt, prompt_of


def all_words(query: str, so_far: str, sampling: Sampling) -> list[str]:
    """Every word about the query, as the next query of a list that goes on."""
    return [f"{query} {word}<sep>{query} more" for word in WORDS]


def plain_loops(prompt: AlignmentPrompt, config: SearchConfig) -> list[tuple[tuple[str, ...], float]]:
    """Algorithm 1, lines 4 to 18, read aloud: one request after another, every reward from scratch."""
    beams: list[tuple[tuple[str, ...], float]] = [((), 0.0)]
    for k in range(1, prompt.context.n + 1):
        new: dict[tuple[str, ...], float] = {}
        for number, (queries, _) in enumerate(beams):
            sampling = Sampling(
                max_tokens=1, n=config.expansions, seed=seed_of(config.seed, prompt.prompt_id, k, number)
            )
            so_far = "".join(f"{query}<sep>" for query in queries)
            for text in words_of_topic(prompt.context.query or "", so_far, sampling):
                query = text.split("<sep>")[0]
                if query not in queries:
                    longer = (*queries, query)
                    p = [p_by_hash(each, longer[:j]) for j, each in enumerate(longer)]
                    new[longer] = list_reward(p, single_choice=False)
        beams = sorted(new.items(), key=lambda each: -each[1])[: config.beams]
    return beams


@pytest.mark.parametrize("config", [PLAIN, SearchConfig(near_duplicate=None, beams=2, expansions=3, seed=5)])
async def test_the_beam_search_is_algorithm_1(config):
    found = await search_with(KnownEngine(words_of_topic), KnownPredictor(), config).search([RICE, TEA])

    for each in found:
        expected = plain_loops(each.prompt, config)
        assert chosen(each) == [queries for queries, _ in expected]
        assert [one.reward for one in each.chosen] == pytest.approx([reward for _, reward in expected])


async def test_with_room_for_all_the_best_lists_there_are_are_found():
    config = SearchConfig(near_duplicate=None, beams=200, expansions=len(WORDS))

    (found,) = await search_with(KnownEngine(all_words), KnownPredictor(), config).search([RICE])

    every = list(itertools.permutations([f"rice {word}" for word in WORDS], 3))
    rewards = {
        queries: list_reward([p_by_hash(q, queries[:k]) for k, q in enumerate(queries)], False) for queries in every
    }
    assert len(every) == 120
    assert chosen(found) == sorted(every, key=lambda queries: -rewards[queries])


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("suggest", 1 - 0.9 * 0.8 * 0.7),  # eq. 3: several may be clicked
        ("clarify", 0.1 + 0.2 + 0.3),  # eq. 4: a click excludes the others
    ],
)
async def test_the_reward_is_that_of_the_task(task, expected):
    def write(query: str, so_far: str, sampling: Sampling) -> list[str]:
        texts = "" if so_far else "question: what do you mean?\n" * (task == "clarify")
        return [texts + "<sep>".join(["a one", "a two", "a three"][so_far.count("<sep>") :])]

    predictor = KnownPredictor(lambda query, above: {"a one": 0.1, "a two": 0.2, "a three": 0.3}[query])
    prompt = prompt_of(task, PromptContext(n=3, query="a"))

    (found,) = await search_with(KnownEngine(write), predictor).search([prompt])

    assert [each.reward for each in (*found.chosen, *found.rejected)] == pytest.approx([expected, expected])
    assert chosen(found) == [("a one", "a two", "a three")]


async def test_a_response_is_what_a_policy_is_trained_to_write():
    (found,) = await search_with(KnownEngine(words_of_topic), KnownPredictor()).search([RICE])

    for each in (*found.chosen, *found.rejected):
        assert each.response == "<sep>".join(each.queries)
        assert each.tokens == len(own_tokenizer().encode_response(each.response))


async def test_rejected_are_the_lowest_of_the_random_lists_of_the_policys_own_decoding():
    engine, predictor = KnownEngine(words_of_topic), KnownPredictor()

    (found,) = await search_with(engine, predictor).search([RICE])

    sampling = engine.asked[0][2]
    drawn = {tuple(text.split("<sep>")) for text in words_of_topic("rice", "", sampling)}
    rewards = {q: list_reward([p_by_hash(one, q[:k]) for k, one in enumerate(q)], False) for q in drawn}
    assert (sampling.n, sampling.temperature, sampling.presence_penalty) == (16, 0.7, 1.5)
    assert [each.queries for each in found.rejected] == sorted(drawn, key=lambda queries: rewards[queries])[:4]
    assert len(predictor.lists) == 1
    assert sorted(queries for _, queries in predictor.lists[0]) == sorted(drawn)  # each list once


async def test_without_beams_the_best_of_as_many_random_queries_are_chosen():
    engine, predictor = KnownEngine(words_of_topic), KnownPredictor()
    config = SearchConfig(near_duplicate=None, beam_search=False, beams=2, expansions=6)

    (found,) = await search_with(engine, predictor, config).search([RICE])

    instead = next(sampling for _, _, sampling in engine.asked if sampling.n == 10)  # (6 + 2 * 2 * 6) / 3 queries each
    drawn = {tuple(text.split("<sep>")) for text in words_of_topic("rice", "", instead)}
    rewards = {
        queries: list_reward([p_by_hash(q, queries[:k]) for k, q in enumerate(queries)], False) for queries in drawn
    }
    assert (instead.temperature, instead.top_p) == (config.temperature, config.top_p)
    assert chosen(found) == sorted(drawn, key=lambda queries: -rewards[queries])[:2]
    assert [each.reward for each in found.chosen] == pytest.approx(sorted(rewards.values())[::-1][:2])
    assert len(found.rejected) == 4


async def test_both_searches_generate_about_as_many_tokens():
    tokens = []
    for beam_search in (True, False):
        config = SearchConfig(near_duplicate=None, beam_search=beam_search)
        search = search_with(KnownEngine(all_words), KnownPredictor(), config)
        await search.search([RICE, TEA])
        tokens.append(search.report.generated_tokens)

    assert tokens[0] > 0
    assert tokens[1] == pytest.approx(tokens[0], rel=0.35)


async def test_what_a_rejected_list_repeats_stands_in_its_response():
    engine = KnownEngine(lambda query, so_far, sampling: ["a<sep>a<sep>rice", "b<sep>c<sep>d"])

    (found,) = await search_with(engine, KnownPredictor()).search([RICE])

    assert {each.response: each.queries for each in found.rejected} == {
        "a<sep>a<sep>rice": ("a", "rice"),
        "b<sep>c<sep>d": ("b", "c", "d"),
    }


async def test_each_round_is_one_wave_of_requests_and_one_call_of_the_predictor():
    engine, predictor = KnownEngine(words_of_topic), KnownPredictor()
    search = search_with(engine, predictor)

    await search.search([RICE, TEA])

    assert engine.waves == 1 + 3  # the random lists, then one for every position
    assert engine.most_in_flight == 2 * PLAIN.beams
    assert len(engine.asked) == 2 + 2 * (1 + 4 + 4)
    assert (len(predictor.rounds), len(predictor.lists)) == (3, 1)
    assert {above for _, above, _ in predictor.rounds[0]} == {()}
    assert {context.query for context, _, _ in predictor.rounds[2]} == {"rice", "tea"}


async def test_no_more_requests_are_in_flight_than_allowed():
    engine = KnownEngine(words_of_topic)

    await search_with(engine, KnownPredictor(), at_once=3).search([RICE, TEA])

    assert engine.most_in_flight == 3


async def test_what_was_asked_or_stands_in_the_list_is_neither_scored_nor_expanded():
    def write(query: str, so_far: str, sampling: Sampling) -> list[str]:
        return [f"{text}<sep>x" for text in ("Rice?", "rice cooker", "rice one", "RICE ONE!", "rice two", "rice three")]

    engine, predictor = KnownEngine(write), KnownPredictor()
    search = search_with(engine, predictor, SearchConfig(near_duplicate=None, expansions=6))
    prompt = prompt_of("suggest", PromptContext(n=3, query="rice", session=("rice cooker",)))

    (found,) = await search.search([prompt])

    scored = [(above, query) for round_ in predictor.rounds for _, above, queries in round_ for query in queries]
    for above, query in scored:
        assert match_key(query) not in {"rice", "rice cooker", *map(match_key, above)}
    assert len(scored) == len(set(scored)) == 3 + 3 * 2 + 4 * 1
    expanded = [so_far for _, so_far, _ in engine.asked[1:]]
    assert len(expanded) == len(set(expanded))
    assert all(len(set(map(match_key, queries))) == 3 for queries in chosen(found))
    assert search.report.exact_duplicates == 3 + 3 * 4 + 4 * 5


async def test_near_duplicates_never_reach_the_predictor():
    def write(query: str, so_far: str, sampling: Sampling) -> list[str]:
        following = ("rice how to cook", "cook rice how to", "how to cook rice well", "cheap pots", "pots cheap")
        return [f"{text}<sep>x" for text in following]

    predictor, similar = KnownPredictor(), SameWords()
    config = SearchConfig(near_duplicate=0.99, expansions=5)
    search = search_with(KnownEngine(write), predictor, config, similar=similar)

    await search.search([prompt_of("suggest", PromptContext(n=2, query="how to cook rice"))])

    first, second = ([(above, queries) for _, above, queries in round_] for round_ in predictor.rounds)
    assert first == [((), ["how to cook rice well", "cheap pots"])]
    # What stands in the list is left out as well: word for word, and in other words.
    assert sorted(second) == [
        (("cheap pots",), ["how to cook rice well"]),
        (("how to cook rice well",), ["cheap pots"]),
    ]
    assert search.report.near_duplicates == 3 + 3 + 3
    assert len(similar.asked) == 2  # one call a round


async def test_a_hint_is_the_best_of_all_without_a_filter_for_sense():
    def write(query: str, so_far: str, sampling: Sampling) -> list[str]:
        return ["tea now", "now tea", "Tea now!", "tea later"]

    similar = SameWords()
    search = search_with(KnownEngine(write), KnownPredictor(), SearchConfig(expansions=4), similar=similar)
    prompt = prompt_of("hint", PromptContext(n=1, session=("tea",)))

    (found,) = await search.search([prompt])

    best = sorted(["tea now", "now tea", "tea later"], key=lambda query: -p_by_hash(query, ()))
    assert chosen(found) == [(query,) for query in best]
    assert similar.asked == []


async def test_groups_of_a_diverse_search_choose_other_terms():
    p = {"rice red": 0.4, "rice red hot": 0.39, "soup blue": 0.3, "soup green": 0.2}
    engine = KnownEngine(lambda *_: list(p))
    prompt = prompt_of("suggest", PromptContext(n=1, query="tea"))

    async def of(**more: float) -> list[tuple[str, ...]]:
        config = SearchConfig(near_duplicate=None, beams=2, expansions=4, **more)
        return chosen((await search_with(engine, KnownPredictor(lambda q, _: p[q]), config).search([prompt]))[0])

    assert await of() == [("rice red",), ("rice red hot",)]
    assert await of(groups=2) == [("rice red",), ("rice red hot",)]
    assert await of(groups=2, diversity=0.2) == [("rice red",), ("soup blue",)]  # .39 - .2 * 2/3 < .3


async def test_the_same_seed_finds_the_same_and_another_others():
    async def of(seed: int, prompts: Sequence[AlignmentPrompt]) -> list[Candidates]:
        return await search_with(KnownEngine(words_of_topic), KnownPredictor(), replace(PLAIN, seed=seed)).search(
            prompts
        )

    assert await of(1, [RICE, TEA]) == await of(1, [RICE, TEA])
    assert (await of(1, [RICE, TEA]))[1] == (await of(1, [TEA]))[0]  # whatever else is searched
    assert await of(1, [RICE]) != await of(2, [RICE])


async def test_the_report_says_what_was_done():
    engine, predictor = KnownEngine(words_of_topic), KnownPredictor()
    search = search_with(engine, predictor)

    found = await search.search([RICE, TEA])

    report = search.report
    assert (report.prompts, report.lists) == (2, sum(len(each.chosen) + len(each.rejected) for each in found))
    assert (report.requests, report.samples) == (len(engine.asked), 2 * 16 + 18 * 8)
    assert (report.predictor_calls, report.predictor_rows) == (4, rows_of(predictor))
    assert 0 < report.engine_busy_share < 1
    assert report.lists_per_s == report.lists / report.seconds


def rows_of(predictor: KnownPredictor) -> int:
    following = sum(len(queries) for round_ in predictor.rounds for _, _, queries in round_)
    return following + sum(len(queries) for call in predictor.lists for _, queries in call)


async def test_a_predictor_that_scores_all_alike_is_refused():
    constant = KnownPredictor(lambda query, above: 0.1 - 0.01 * len(above))  # by position it may well differ

    with pytest.raises(ArtifactError, match="the reward says nothing"):
        await search_with(KnownEngine(words_of_topic), constant).search([RICE, TEA])


@pytest.mark.parametrize("p", [float("nan"), 1.0, -0.1])
async def test_what_is_no_probability_is_refused(p):
    with pytest.raises(ArtifactError, match="no probability"):
        await search_with(KnownEngine(words_of_topic), KnownPredictor(lambda *_: p)).search([RICE])


async def test_a_predictor_of_another_task_is_refused():
    predictor = KnownPredictor()
    predictor.task = "snippets"

    with pytest.raises(ConfigurationError, match="cannot score lists of suggest"):
        await search_with(KnownEngine(words_of_topic), predictor).search([RICE])


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"random_lists": 4, "rejected": 4}, "all would be"),
        ({"beams": 4, "groups": 3}, "groups of one size"),
        ({"beams": 0}, "at least 1"),
        ({"temperature": 0.0}, "temperature 0.0"),
        ({"top_p": 1.5}, "top_p 1.5"),
    ],
)
def test_a_configuration_that_cannot_be_searched_is_refused(wrong, says):
    with pytest.raises(ConfigurationError, match=says):
        SearchConfig(**wrong)


def test_a_search_without_what_it_needs_is_refused():
    engine, predictor = KnownEngine(words_of_topic), KnownPredictor()

    with pytest.raises(ConfigurationError, match="without an embedder"):
        search_with(engine, predictor, SearchConfig())
    with pytest.raises(ConfigurationError, match="decodes greedily"):
        CandidateSearch(known_policy(temperature=0.0), engine, predictor, PLAIN)


async def test_an_engine_that_fails_ends_the_search_and_leaves_no_request_behind():
    engine = KnownEngine(words_of_topic)
    engine.fail_after = 2

    with pytest.raises(RuntimeError, match="killed"):
        await search_with(engine, KnownPredictor()).search([RICE, TEA])

    assert engine.in_flight == 0


@pytest.mark.slow
def test_the_starter_policy_is_searched_through_a_real_engine(tmp_path):
    found, report = asyncio.run(search_starter(tmp_path))

    for each in found:
        n = each.prompt.context.n
        assert 1 <= len(each.chosen) <= 2
        assert 1 <= len(each.rejected) <= 2
        assert each.chosen[0].reward >= max(one.reward for one in each.rejected)
        assert all(1 <= len(one.queries) <= n for one in (*each.chosen, *each.rejected))
    assert report.engine_busy_share > 0.5
    assert report.unreadable <= 0.1 * report.samples


async def search_starter(directory: Path):
    from ctr.predictor import open_predictor
    from service.contract.policy import load_policy
    from service.engines import create_engine
    from tests.ctr.tiny_predictor import tiny_predictor

    policy = load_policy(STARTER)
    engine = create_engine("transformers_local", policy.directory, Settings(engine_context_tokens=1024, _env_file=None))
    await engine.start()
    try:
        predictor = open_predictor(tiny_predictor(directory / "ctr", version="tiny"))
        config = SearchConfig(near_duplicate=None, beams=2, expansions=8, random_lists=8, rejected=2)
        search = CandidateSearch(policy, engine, predictor, config)
        contexts = {
            "suggest": PromptContext(n=3, query="how to cook rice"),
            "hint": PromptContext(n=1, session=("things to do in kyoto",)),
            "snippets": PromptContext(n=4, query="write a poem about autumn"),
        }
        return await search.search([prompt_of(task, context) for task, context in contexts.items()]), search.report
    finally:
        await engine.close()
