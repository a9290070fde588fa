"""An engine without a model: it writes what it was told to, for tests and for staged faults.

It knows nothing about queries; without a script it continues every prompt with the same tokens.
"""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from service.contract.engine import Adapter, Completion, Sampling
from service.contract.errors import EngineUnavailable
from service.contract.policy import load_policy
from service.contract.settings import Settings
from service.engines.limits import ModelLimits, completion, read_limits

Script = Callable[[tuple[int, ...]], Sequence[int]]
LOGPROB = -0.5
_LIST = ("how to cook rice", "how to cook rice in a pot", "how long does rice take to cook")


class Scripted:
    """Completes by script, deterministically. Sample `k` and adapter `a` rotate the script by `k + a` tokens.

    Faults to stage at any time: `delay_s` before an answer, `fail_next` (the errors of the next calls, in order),
    `dead` (every call fails), `frozen` (no call answers). Counters to read: `running`, `cancelled`, `starts`, `closes`;
    `adapters` are those that were asked for and not dropped.
    """

    name = "scripted"

    def __init__(self, script: Script | Sequence[int], limits: ModelLimits, *, delay_s: float = 0.0) -> None:
        """`script`: completion of each prompt, without its stop token; or the same tokens for every prompt."""
        fixed = None if callable(script) else tuple(script)
        self._script: Script = script if callable(script) else lambda _: fixed or ()
        self._limits = limits
        self.delay_s = delay_s
        self.start_delay_s = 0.0
        self.fail_start: Exception | None = None
        self.fail_next: list[Exception] = []
        self.dead = False
        self.frozen = False
        self.running = self.cancelled = self.starts = self.closes = 0
        self.adapters: set[Adapter] = set()
        self._open = False

    async def start(self) -> None:
        await asyncio.sleep(self.start_delay_s)
        self.starts += 1
        if self.fail_start:
            raise self.fail_start
        self._open = True

    async def generate(
        self, request_id: str, prompt_token_ids: Sequence[int], sampling: Sampling, adapter: Adapter | None = None
    ) -> list[Completion]:
        self._refuse_when_closed()
        room = self._limits.room(prompt_token_ids, sampling)
        self.running += 1
        try:
            await self._misbehave()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        tokens = tuple(self._script(tuple(prompt_token_ids)))
        turn = adapter.number if adapter else 0
        self.adapters |= {adapter} if adapter else set()
        return [self._sample(_rotated(tokens, k + turn), room, sampling) for k in range(sampling.n)]

    async def check(self) -> None:
        self._refuse_when_closed()
        await self._misbehave()

    async def drop(self, adapter: Adapter) -> None:
        self.adapters.discard(adapter)

    async def close(self) -> None:
        self.closes += 1
        self._open = False

    async def _misbehave(self) -> None:
        if self.fail_next:
            raise self.fail_next.pop(0)
        while self.frozen:
            await asyncio.sleep(0.005)
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        if self.dead:
            raise EngineUnavailable("The scripted engine was told to be dead. Start a new one.")

    def _refuse_when_closed(self) -> None:
        if not self._open:
            raise EngineUnavailable("The scripted engine is not running. Call start() first.")

    def _sample(self, tokens: tuple[int, ...], room: int, sampling: Sampling) -> Completion:
        stops = self._limits.stop_ids(sampling)
        if sampling.exact_tokens:
            tokens = (tokens * room)[:room] or (0,) * room
        elif len(tokens) < room:
            tokens += tuple(self._limits.end_ids)[:1]
        return completion(tokens[:room], (LOGPROB,) * min(room, len(tokens)), stops)


def create(directory: Path, settings: Settings) -> Scripted:
    """A scripted engine that writes one plausible list in the format of the policy in `directory`."""
    tokenizer = load_policy(directory).tokenizer
    tokens = tokenizer.encode_response(tokenizer.format.separator.join(_LIST))
    limits = read_limits(directory, settings.engine_context_tokens)
    return Scripted([token for token in tokens if token not in limits.end_ids], limits)


def _rotated(tokens: tuple[int, ...], turn: int) -> tuple[int, ...]:
    return tokens[turn % len(tokens) :] + tokens[: turn % len(tokens)] if tokens else tokens
