"""Asks a policy for the next queries of lists, and for whole responses; the task's own parser reads them.

It knows nothing about rewards or beams. A partial response goes on from its token ids, never from its text, unless
the policy put a query's end inside a token.
"""

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import count
from typing import Any, TypeVar, cast

from service.contract.engine import Completion, Engine, Sampling
from service.contract.policy import Policy
from service.contract.prompt import UnifiedTask
from service.contract.tasks import get_task
from service.contract.types import ParsedList
from trainer.prompts import AlignmentPrompt

_TOKENS_PER_QUERY = 32  # the longest query that may be shown, 160 characters, has about 30
_TOKENS_PER_TEXT = 40

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True, slots=True)
class Next:
    """How a list may go on: `query` None says that it ends here, `ends` that it ends after the query.

    `token_ids`: prompt and response up to the query's end, without a separator.
    """

    query: str | None
    token_ids: tuple[int, ...]
    ends: bool


@dataclass(frozen=True, slots=True)
class Response:
    """A whole response. `text`: as written, also what it repeats. `opening`: with the prompt, up to its first query."""

    text: str
    queries: tuple[str, ...]
    texts: dict[str, str]
    opening: tuple[int, ...]


class Stopwatch:
    """Seconds during which at least one piece of work was under way; `with` it around each."""

    def __init__(self) -> None:
        self._under_way, self._since, self._seconds = 0, 0.0, 0.0

    @property
    def seconds(self) -> float:
        """Until now."""
        return self._seconds + (time.monotonic() - self._since if self._under_way else 0.0)

    def __enter__(self) -> None:
        if not self._under_way:
            self._since = time.monotonic()
        self._under_way += 1

    def __exit__(self, *_: object) -> None:
        self._under_way -= 1
        if not self._under_way:
            self._seconds += time.monotonic() - self._since


class QuerySampler:
    """One policy on one engine, which is started already. `tally` counts tokens, samples, and those that say no query."""

    def __init__(
        self, policy: Policy, engine: Engine, tally: Counter[str], *, prompt_tokens: int, at_once: int
    ) -> None:
        """`prompt_tokens`: budget of a prompt. `at_once`: most requests in flight."""
        self.busy = Stopwatch()
        self._policy, self._engine, self._tally = policy, engine, tally
        self._adapter = policy.adapter
        self._prompt_tokens = prompt_tokens
        self._gate = asyncio.Semaphore(at_once)
        self._name, self._numbers = uuid.uuid4().hex, count()

    def prompt_ids(self, prompt: AlignmentPrompt) -> tuple[int, ...]:
        """The token ids that the policy reads."""
        return (
            get_task(prompt.task).render(prompt.context, self._policy.tokenizer, budget=self._prompt_tokens).token_ids
        )

    async def whole(
        self,
        prompt: AlignmentPrompt,
        prompt_ids: tuple[int, ...],
        n: int,
        seed: int,
        *,
        temperature: float | None = None,
        top_p: float | None = None,
    ) -> list[Response]:
        """Of `n` responses those that are whole: ended, with a query and every text.

        `temperature` and `top_p` None are the policy's own.
        """
        task = get_task(prompt.task)
        most = prompt.context.n * _TOKENS_PER_QUERY + len(task.auxiliary) * _TOKENS_PER_TEXT
        own = self._policy.sampling(prompt.context, max_tokens=most, n=n, seed=seed)
        sampling = replace(
            own,
            temperature=own.temperature if temperature is None else temperature,
            top_p=own.top_p if top_p is None else top_p,
        )
        read = [self._whole(task, prompt, prompt_ids, each) for each in await self._ask(prompt_ids, sampling)]
        return self._readable(read)

    async def following(
        self,
        task: UnifiedTask,
        token_ids: tuple[int, ...],
        n: int,
        seed: int,
        *,
        temperature: float,
        top_p: float,
        said: Iterable[str] = (),
    ) -> list[Next]:
        """What the policy writes next, in `n` samples: queries, or that the list ends. Cut and unreadable ones are left out.

        `token_ids`: prompt and response so far, with the separator where a query stands before. `said`: queries that
        it is not to write.
        """
        text_format, separator_ids = self._policy.tokenizer.format, self._policy.tokenizer.separator_ids
        sampling = Sampling(
            max_tokens=_TOKENS_PER_QUERY + (0 if text_format.separator_is_token else 2 * len(separator_ids)),
            temperature=temperature,
            top_p=top_p,
            n=n,
            seed=seed,
            stop_token_ids=separator_ids if text_format.separator_is_token else (),
            distinct=self._policy.tokenizer.distinct(said),
        )
        return self._readable([self._next(task, token_ids, each) for each in await self._ask(token_ids, sampling)])

    async def _ask(self, token_ids: tuple[int, ...], sampling: Sampling) -> list[Completion]:
        async with self._gate:
            with self.busy:
                name = f"candidates-{self._name}-{next(self._numbers)}"
                written = await self._engine.generate(name, token_ids, sampling, self._adapter)
        self._tally["generated_tokens"] += sum(len(each.token_ids) for each in written)
        return written

    def _readable(self, read: list[T | None]) -> list[T]:
        found = [each for each in read if each is not None]
        self._tally["requests"] += 1
        self._tally["samples"] += len(read)
        self._tally["unreadable"] += len(read) - len(found)
        return found

    def _whole(
        self, task: UnifiedTask, prompt: AlignmentPrompt, prompt_ids: tuple[int, ...], written: Completion
    ) -> Response | None:
        tokenizer = self._policy.tokenizer
        text = tokenizer.decode(written.token_ids)
        parsed = task.parse(text, n=prompt.context.n, separator=tokenizer.format.separator)
        if parsed.problem or written.finish_reason != "stop":
            return None
        opening = self._cut(written, text, parsed.spans[0][0])
        return Response(
            _as_written(text, parsed, prompt.context.n, tokenizer.format.separator),
            parsed.queries,
            dict(parsed.texts),
            (*prompt_ids, *opening),
        )

    def _next(self, task: UnifiedTask, before: tuple[int, ...], written: Completion) -> Next | None:
        tokenizer = self._policy.tokenizer
        text = tokenizer.decode(written.token_ids)
        separated = tokenizer.format.separator_is_token and written.stop_token_id in tokenizer.separator_ids
        ends = written.finish_reason == "stop" and not separated
        parsed = task.parse(text, n=1, separator=tokenizer.format.separator)
        if not parsed.queries:
            return Next(None, before, True) if ends and not text.strip() else None
        rest = text[parsed.spans[0][1] :].strip()
        if written.finish_reason != "stop" and not rest:
            return None  # cut inside the query
        ids = self._cut(written, text, parsed.spans[0][1])
        return Next(parsed.queries[0], (*before, *ids), ends and not rest)

    def _cut(self, written: Completion, text: str, end: int) -> tuple[int, ...]:
        """The tokens of the first `end` characters of what was written, without spaces at their end."""
        tokenizer, kept = self._policy.tokenizer, text[:end].rstrip(" ")
        inside = [last <= len(kept) for last in tokenizer.token_ends(written.token_ids)].count(True)
        if tokenizer.decode(written.token_ids[:inside]) == kept:
            return written.token_ids[:inside]
        return tuple(tokenizer.encode(kept))


def _as_written(text: str, parsed: ParsedList, n: int, separator: str) -> str:
    """The response with what it repeats, up to its n-th query, without the spaces that decoding puts around queries."""
    mark, first = separator.strip(), parsed.spans[0][0]
    end = max(parsed.spans[-1][1], first + len(mark.join(text[first:].split(mark)[:n])))
    lines = [separator.join(piece.strip() for piece in line.split(mark)) for line in text[:end].strip().split("\n")]
    return "\n".join(lines)


def seed_of(*parts: object) -> int:
    """A seed of 31 bits that the parts alone decide."""
    return int.from_bytes(sha256(":".join(map(str, parts)).encode()).digest()[:4], "big") >> 1


async def both(one: Coroutine[Any, Any, T], other: Coroutine[Any, Any, U]) -> tuple[T, U]:
    """The results of both, run at once, as `all_of` does."""
    first, second = await all_of([one, other])
    return cast(T, first), cast(U, second)


async def all_of(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of all, run at once. The first error is raised, and the others are cancelled."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
