"""How fast candidates are searched for: Algorithm 1 in waves of requests, against one request after another.

It knows nothing about how good they are.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from itertools import count

from ctr.predictor import Predictor, list_reward
from service.contract.engine import Engine
from service.contract.policy import Policy
from service.contract.query_text import match_key
from service.contract.tasks import get_task
from trainer.candidates import CandidateSearch, SearchConfig
from trainer.candidates.query_sampler import QuerySampler
from trainer.encoding import PROMPT_BUDGET
from trainer.judges import Similar
from trainer.prompts import AlignmentPrompt

_ONE_BY_ONE = 6  # prompts of some 90 requests each


async def compare(
    engine: Engine, policy: Policy, predictor: Predictor, similar: Similar, prompts: Sequence[AlignmentPrompt]
) -> dict[str, float]:
    """Lists a second of both, on the same engine, and their ratio."""
    config = SearchConfig()
    search = CandidateSearch(policy, engine, predictor, config, similar=similar)
    await search.search(prompts[:_ONE_BY_ONE])  # warm
    search = CandidateSearch(policy, engine, predictor, config, similar=similar)
    await search.search(prompts[_ONE_BY_ONE:])
    plain = await _one_by_one(engine, policy, predictor, config, prompts[:_ONE_BY_ONE])
    return {
        "candidates_lists_per_s": search.report.lists_per_s,
        "one_by_one_lists_per_s": plain,
        "candidates_ratio": search.report.lists_per_s / plain,
    }


async def _one_by_one(
    engine: Engine, policy: Policy, predictor: Predictor, config: SearchConfig, prompts: Sequence[AlignmentPrompt]
) -> float:
    """Algorithm 1, lines 2 to 24, as it is written: every list so far is a request of its own, and waits for the one before."""
    sampler = QuerySampler(policy, engine, Counter(), prompt_tokens=PROMPT_BUDGET, at_once=1)
    seeds, lists, began = count(), 0, time.monotonic()
    for prompt in prompts:
        lists += await _beams(sampler, policy, predictor, config, prompt, seeds)
        lists += await _rejected(sampler, predictor, config, prompt, seeds)
    return lists / (time.monotonic() - began)


async def _beams(
    sampler: QuerySampler,
    policy: Policy,
    predictor: Predictor,
    config: SearchConfig,
    prompt: AlignmentPrompt,
    seeds: "count[int]",
) -> int:
    task, start = get_task(prompt.task), sampler.prompt_ids(prompt)
    asked = [text for text in (prompt.context.query, *prompt.context.session) if text]
    beams: list[tuple[tuple[str, ...], tuple[int, ...]]] = [((), start)]
    for _ in range(prompt.context.n):
        grown: dict[tuple[str, ...], tuple[float, tuple[str, ...], tuple[int, ...]]] = {}
        for queries, token_ids in beams:
            prefix = (*token_ids, *policy.tokenizer.separator_ids) if queries else token_ids
            for _ in range(config.expansions):
                [*found] = await sampler.following(
                    task,
                    prefix,
                    1,
                    next(seeds),
                    temperature=config.temperature,
                    top_p=config.top_p,
                    said=[*asked, *queries],
                )
                longer = [((*queries, each.query), each.token_ids) for each in found if each.query]
                for listed, ids in longer:
                    p = predictor.p_click(prompt.context, listed)
                    key = tuple(match_key(query) for query in listed)
                    if len(set(key)) == len(key):
                        grown[key] = (list_reward(p, task.single_choice), listed, ids)
        best = sorted(grown.values(), key=lambda each: -each[0])[: config.beams]
        beams = [(listed, ids) for _, listed, ids in best] or beams
    return len(beams)


async def _rejected(
    sampler: QuerySampler, predictor: Predictor, config: SearchConfig, prompt: AlignmentPrompt, seeds: "count[int]"
) -> int:
    found: dict[tuple[str, ...], float] = {}
    for _ in range(config.random_lists):
        for response in await sampler.whole(prompt, sampler.prompt_ids(prompt), 1, next(seeds)):
            p = predictor.p_click(prompt.context, response.queries)
            found[response.queries] = list_reward(p, get_task(prompt.task).single_choice)
            await asyncio.sleep(0)
    return len(sorted(found.values())[: config.rejected])
