"""Assesses a policy on test prompts: one response each, what click predictors expect of it, and how it is made.

It knows nothing about training. AEC is the mean list reward of one response per prompt (GQR B.1).
"""

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ctr.predictor import Predictor, aec
from service.contract.engine import Engine
from service.contract.policy import Policy
from service.contract.prompt import UnifiedTask
from service.contract.query_text import match_key, one_line
from service.contract.tasks import get_task
from trainer.encoding import PROMPT_BUDGET
from trainer.prompts import AlignmentPrompt

MOST_TOKENS = 160  # longer than any list that a policy should write


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What a policy wrote for one prompt. `repeated`: queries that say again what stands above or was asked."""

    prompt: AlignmentPrompt
    queries: tuple[str, ...]
    texts: Mapping[str, str]
    problem: str | None
    tokens: int
    repeated: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """How good a policy's lists are.

    Attributes:
        aec: by predictor, under the name it was given.
        parse_failures: share of responses that are not a whole list.
        duplicate_share: repeated queries of all queries written.
        mean_tokens: of a response.
    """

    prompts: int
    aec: Mapping[str, float]
    parse_failures: float
    duplicate_share: float
    mean_tokens: float


async def write(engine: Engine, policy: Policy, prompts: Sequence[AlignmentPrompt], *, seed: int = 0) -> list[Written]:
    """One response of `policy` for each prompt, sampled as serving samples it; the seed decides each."""
    return list(await asyncio.gather(*(_write(engine, policy, prompt, seed) for prompt in prompts)))


def assess(written: Sequence[Written], predictors: Mapping[str, Predictor]) -> Assessment:
    """What was written for prompts of one task, in figures; an empty list earns nothing."""
    queries = sum(len(each.queries) + each.repeated for each in written)
    return Assessment(
        prompts=len(written),
        aec={name: _aec(written, predictor) for name, predictor in predictors.items()},
        parse_failures=float(np.mean([each.problem is not None for each in written])),
        duplicate_share=sum(each.repeated for each in written) / max(1, queries),
        mean_tokens=float(np.mean([each.tokens for each in written])),
    )


def _aec(written: Sequence[Written], predictor: Predictor) -> float:
    p = predictor.p_click_lists([(each.prompt.context, each.queries) for each in written])
    return aec(p, get_task(written[0].prompt.task).single_choice)


async def _write(engine: Engine, policy: Policy, prompt: AlignmentPrompt, seed: int) -> Written:
    task, tokenizer = get_task(prompt.task), policy.tokenizer
    rendered = task.render(prompt.context, tokenizer, budget=PROMPT_BUDGET)
    name = hashlib.sha256(f"{seed}:{prompt.prompt_id}".encode()).digest()
    sampling = policy.sampling(prompt.context, max_tokens=MOST_TOKENS, seed=int.from_bytes(name[:4]) >> 1)
    request = f"assess-{name.hex()[:16]}-{policy.version}"
    [completion] = await engine.generate(request, rendered.token_ids, sampling, policy.adapter)
    text, separator = tokenizer.decode(completion.token_ids), tokenizer.format.separator
    parsed = task.parse(text, n=prompt.context.n, separator=separator)
    return Written(
        prompt=prompt,
        queries=parsed.queries,
        texts=dict(parsed.texts),
        problem=parsed.problem,
        tokens=len(completion.token_ids) + 1,  # the end
        repeated=_repeated(text, task, prompt, separator.strip()),
    )


def _repeated(text: str, task: UnifiedTask, prompt: AlignmentPrompt, separator: str) -> int:
    lines = [line for line in text.split("\n") if line.partition(":")[0].strip().lower() not in task.auxiliary]
    keys = [key for line in lines for piece in line.split(separator) if (key := match_key(one_line(piece)))]
    said = {match_key(one_line(prompt.context.query or ""))}
    repeated = 0
    for key in keys:
        repeated += key in said
        said.add(key)
    return repeated
