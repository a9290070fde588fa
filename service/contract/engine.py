"""The protocol of a generation engine: token ids in, completions out, one call for on line and off line.

It knows nothing about queries, tasks or HTTP.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Distinct:
    """A completion is a list of pieces, and says nothing twice.

    `separator_id`: the token between pieces. `said`: token ids of pieces that count as said before it begins.
    """

    separator_id: int
    said: frozenset[tuple[int, ...]] = frozenset()

    def repeats(self, written: Sequence[int]) -> bool:
        """Whether the last piece, as far as it is written, is one that was said: it must not end here."""
        above, begin = set(self.said), 0
        for _ in range(written.count(self.separator_id)):
            end = written.index(self.separator_id, begin)
            above.add(tuple(written[begin:end]))
            begin = end + 1
        last = tuple(written[begin:])
        return bool(last) and last in above


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How to decode. Every field is logged with the impression.

    `temperature` 0 is greedy. `presence_penalty` (-2..2) is taken from the logit of every token that the completion
    has already, `frequency_penalty` (-2..2) as often as it has it. `stop_token_ids` end a completion besides the
    end-of-sequence token; the stop token itself is not part of the completion. `exact_tokens` makes every completion
    `max_tokens` long (benchmarks). `distinct`: no piece of the completion ends as a repeat, however likely that is.
    """

    max_tokens: int
    temperature: float = 0.7
    top_p: float = 0.95
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    n: int = 1
    stop_token_ids: tuple[int, ...] = ()
    exact_tokens: bool = False
    distinct: Distinct | None = None


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter on the engine's base. Name and id are new for every version: engines cache by them."""

    name: str
    number: int
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One sample.

    `token_ids`: without the end-of-sequence or stop token. `token_logprobs`: their natural log-probabilities under
    the raw distribution (before penalties, temperature and top_p), same length. `finish_reason`: "stop" or "length".
    `stop_token_id`: the token that ended it, None for "length".
    """

    token_ids: tuple[int, ...]
    token_logprobs: tuple[float, ...]
    finish_reason: str
    stop_token_id: int | None = None


class Engine(Protocol):
    """A language model that continues token ids. Conformance: `tests/conformance/test_engines.py`."""

    name: str

    async def start(self) -> None:
        """Load the model and warm it up; after this, `generate` answers at its usual speed.

        Raises:
            EngineUnavailable: The model cannot be loaded; the text says why.
        """

    async def generate(
        self, request_id: str, prompt_token_ids: Sequence[int], sampling: Sampling, adapter: Adapter | None = None
    ) -> list[Completion]:
        """`sampling.n` completions of one prompt. Cancelling the awaiting task aborts the work in the engine.

        Raises:
            EngineUnavailable: The engine is not started, or died.
            EngineError: The prompt cannot be taken (empty, longer than the model's context), or the sampling (out of
                bounds, several samples of a greedy completion).
        """

    async def check(self) -> None:
        """Return when a real one-token generation succeeded; hang or raise when the engine does. Callers bound it."""

    async def drop(self, adapter: Adapter) -> None:
        """Free an adapter that nobody generates with any more; nothing happens where it is not loaded."""

    async def close(self) -> None:
        """Free the model and every process of it. May be called twice, and on an engine that never started."""
