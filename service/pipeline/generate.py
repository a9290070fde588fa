"""The model's rung: render the prompt, ask the engine, parse the list, inside the deadline.

It knows nothing about HTTP, users or what may be shown.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from service.contract.engine import Completion, Engine, Sampling
from service.contract.errors import EngineBusy, EngineError, EngineUnavailable
from service.contract.policy import Policy
from service.contract.types import Candidate, PromptContext, ServedBy, Slate
from service.pipeline.recent import RecentRequests
from service.pipeline.request import RecommendRequest, Trace

_LOG = logging.getLogger(__name__)
_TOKENS_PER_QUERY = 14  # the 99th percentile of the starter policy's queries, separator included
_TOKENS_PER_TEXT = 20
_DECODING = ("temperature", "top_p", "presence_penalty", "frequency_penalty")
_LOGGED = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "seed", "max_tokens", "n")


class NoList(Exception):
    """The model gave no list; `reason` is the reply's `degraded_reason`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft(Slate):
    """A list of the model, with the completion that it was read from and how that ended."""

    completion: str
    finish_reason: str


class Serving(Protocol):
    """A policy, and the engine that writes with it."""

    @property
    def policy(self) -> Policy:
        """It renders the prompt, reads the completion, and names the adapter."""

    @property
    def engine(self) -> Engine:
        """It has the model of that policy."""


class Generator:
    """Writes lists with the policy in service.

    `serving`: the policy for a task and its engine, or a version that an experiment names, or else the former; asked
    once a request; None while there is none. `decoding`: what the settings say about it; the rest is the policy's own.
    `recent`: is told each request.
    """

    def __init__(
        self,
        serving: Callable[[str, str | None], Serving | None],
        *,
        prompt_tokens: int,
        context_tokens: int,
        decoding: Mapping[str, float],
        exact_tokens: int | None = None,
        recent: RecentRequests | None = None,
    ) -> None:
        self._serving = serving
        self._prompt_tokens = prompt_tokens
        self._context_tokens = context_tokens
        self._decoding = decoding
        self._exact_tokens = exact_tokens
        self._recent = recent or RecentRequests()

    async def generate(
        self,
        request_id: str,
        request: RecommendRequest,
        context: PromptContext,
        trace: Trace,
        *,
        until: float,
        lists: int = 1,
    ) -> list[Draft]:
        """The lists of the model, at the latest at `until` (monotonic seconds): one at least.

        `lists` are sampled at once; those that do not parse are left out, and a greedy policy writes one.

        Raises:
            NoList: The engine did not answer in time or at all, the locale is not the policy's, nothing to go on.
        """
        serving = self._usable(request, context)
        policy = serving.policy
        self._recent.note(request.task.name, context)
        prompt = request.task.render(context, policy.tokenizer, budget=self._prompt_tokens)
        sampling = self._sampling(request, policy, context, len(prompt.token_ids), lists)
        trace.policy_version = policy.version
        trace.prompt_fingerprint = request.task.fingerprint(policy.tokenizer.format)
        trace.prompt_text, trace.prompt_tokens = prompt.text, len(prompt.token_ids)
        trace.prompt_dropped = prompt.dropped
        trace.sampling = {name: getattr(sampling, name) for name in _LOGGED}
        if sampling.max_tokens < 1:
            raise NoList("prompt_too_long")
        completions = await _complete(serving, request_id, prompt.token_ids, sampling, until)
        texts = [policy.tokenizer.decode(completion.token_ids) for completion in completions]
        trace.completion, trace.finish_reason = texts[0], completions[0].finish_reason
        drafts = [_read(request, policy, each, text) for each, text in zip(completions, texts, strict=True)]
        parsed = [draft for draft in drafts if draft.candidates]
        if not parsed:
            raise NoList("unparsable")
        if request.changes.get("policy", policy.version) != policy.version:
            return [replace(draft, degraded_reason=draft.degraded_reason or "policy_of_arm_away") for draft in parsed]
        return parsed

    def _usable(self, request: RecommendRequest, context: PromptContext) -> Serving:
        serving = self._serving(request.task.name, request.changes.get("policy"))
        if serving is None:
            raise NoList("no_policy")
        locales = serving.policy.locales
        if "*" not in locales and request.locale.split("-")[0] not in locales:
            raise NoList("locale_not_supported")
        if not (context.query or context.session or context.history):
            raise NoList("nothing_to_go_on")
        return serving

    def _sampling(
        self, request: RecommendRequest, policy: Policy, context: PromptContext, prompt_tokens: int, lists: int
    ) -> Sampling:
        changed = {name: request.changes[name] for name in _DECODING if name in request.changes}
        wanted = request.n * _TOKENS_PER_QUERY + len(request.task.auxiliary) * _TOKENS_PER_TEXT
        found = policy.sampling(
            context,
            max_tokens=self._exact_tokens or min(wanted, self._context_tokens - prompt_tokens),
            exact_tokens=self._exact_tokens is not None,
            seed=random.getrandbits(31),
            n=lists,
            **{**self._decoding, **changed},
        )
        return found if found.temperature > 0 else replace(found, n=1)  # a greedy policy has one list to give


async def _complete(
    serving: Serving, request_id: str, prompt_token_ids: tuple[int, ...], sampling: Sampling, until: float
) -> list[Completion]:
    try:
        async with asyncio.timeout(max(0.0, until - time.monotonic())):
            adapter = serving.policy.adapter
            completions = await serving.engine.generate(request_id, prompt_token_ids, sampling, adapter)
    except TimeoutError:
        raise NoList("deadline") from None
    except EngineBusy:
        raise NoList("engine_busy") from None
    except EngineUnavailable:
        raise NoList("engine_unavailable") from None
    except EngineError:
        raise NoList("engine_error") from None
    except Exception as error:  # an engine's own bug must not cost the reply; its text may hold the prompt
        _LOG.error("The engine failed with %s, which is none of its documented errors.", type(error).__name__)
        raise NoList("engine_error") from None
    if not completions:
        raise NoList("engine_error")
    return completions


def _read(request: RecommendRequest, policy: Policy, completion: Completion, text: str) -> Draft:
    """The list in a completion, without candidates where there is none."""
    tokenizer = policy.tokenizer
    parsed = request.task.parse(text, n=request.n, separator=tokenizer.format.separator)
    ends = tokenizer.token_ends(completion.token_ids)
    candidates = tuple(
        Candidate(text=query, source=ServedBy.MODEL, logprob=_logprob(span, ends, completion.token_logprobs))
        for query, span in zip(parsed.queries, parsed.spans, strict=True)
    )
    return Draft(
        candidates=candidates,
        texts=parsed.texts,
        served_by=ServedBy.MODEL,
        degraded_reason=parsed.problem and "incomplete_texts",
        completion=text,
        finish_reason=completion.finish_reason,
    )


def _logprob(span: tuple[int, int], ends: list[int], token_logprobs: tuple[float, ...]) -> float:
    """Sum of the log-probabilities of the tokens that end inside `span` (characters of the completion)."""
    begin, end = span
    return round(sum(p for p, last in zip(token_logprobs, ends, strict=True) if begin < last <= end), 5)
