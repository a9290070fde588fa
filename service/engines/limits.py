"""What a model can take: its context, its vocabulary, and the tokens that end a completion.

It knows nothing about how tokens are generated; every engine asks it the same questions.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.contract.engine import Completion, Sampling
from service.contract.errors import ArtifactError, EngineError


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLimits:
    """Limits of one model. `context_tokens`: prompt and completion together. `end_ids`: its end-of-sequence tokens."""

    context_tokens: int
    vocabulary: int
    end_ids: frozenset[int]

    def room(self, prompt_token_ids: Sequence[int], sampling: Sampling) -> int:
        """Tokens that a completion of this prompt may have, at least 1 and at most `sampling.max_tokens`.

        Raises:
            EngineError: The prompt is empty, too long, or has a token that the model does not know; or nobody can
                sample in this way.
        """
        _refuse_senseless(sampling)
        prompt_tokens = len(prompt_token_ids)
        left = self.context_tokens - prompt_tokens
        if not prompt_tokens:
            raise EngineError("The prompt is empty. Send at least the begin-of-sequence token.")
        if left < (sampling.max_tokens if sampling.exact_tokens else 1):
            raise EngineError(
                f"The prompt has {prompt_tokens} tokens and the engine's context {self.context_tokens}, which leaves "
                "no room for the completion. Shorten the prompt, or raise NEXTQUERY_ENGINE_CONTEXT_TOKENS."
            )
        if min(prompt_token_ids) < 0 or max(prompt_token_ids) >= self.vocabulary:
            raise EngineError(
                f"The prompt has a token id outside the model's vocabulary of {self.vocabulary}. Usually it was "
                "written with another model's tokenizer: load tokenizer and model from the same policy."
            )
        return max(1, min(left, sampling.max_tokens))

    def stop_ids(self, sampling: Sampling) -> frozenset[int]:
        """Token ids that end a completion; none where it must have an exact length."""
        return frozenset() if sampling.exact_tokens else self.end_ids.union(sampling.stop_token_ids)


def read_limits(directory: Path, context_tokens: int) -> ModelLimits:
    """Limits of the model in a Hugging Face directory, whose context is cut to `context_tokens`.

    Raises:
        ArtifactError: The directory has no `config.json` of a language model.
    """
    config = _read_json(directory / "config.json")
    config = {**config, **(config.get("text_config") or {})}
    if "vocab_size" not in config:
        raise ArtifactError(
            f"{directory} is no Hugging Face causal model: its config.json is missing or names no vocab_size. "
            "Give a directory that AutoModelForCausalLM.save_pretrained wrote."
        )
    return ModelLimits(
        context_tokens=min(context_tokens, int(config.get("max_position_embeddings") or context_tokens)),
        vocabulary=int(config["vocab_size"]),
        end_ids=frozenset(_end_ids(directory, config)),
    )


def _refuse_senseless(sampling: Sampling) -> None:
    """One check for all engines, each of which would fail in its own words, or not at all."""
    if sampling.n < 1 or sampling.max_tokens < 1:
        raise EngineError(f"n is {sampling.n} and max_tokens {sampling.max_tokens}. Both must be at least 1.")
    if not 0 <= sampling.temperature < math.inf or not 0 < sampling.top_p <= 1:
        raise EngineError(
            f"temperature is {sampling.temperature} and top_p {sampling.top_p}. Send a temperature of at least 0 and a "
            "top_p above 0 and at most 1."
        )
    if not (abs(sampling.presence_penalty) <= 2 and abs(sampling.frequency_penalty) <= 2):
        raise EngineError("A penalty is out of bounds. Send presence_penalty and frequency_penalty between -2 and 2.")
    if sampling.n > 1 and not sampling.temperature:
        raise EngineError("All samples of a greedy completion are the same. Send n=1, or a temperature above 0.")


def completion(token_ids: Sequence[int], logprobs: Sequence[float], stop_ids: Iterable[int]) -> Completion:
    """What was generated up to the first stop token, without it."""
    stops = frozenset(stop_ids)
    end = next((k for k, token_id in enumerate(token_ids) if token_id in stops), None)
    return Completion(
        token_ids=tuple(token_ids[:end]),
        token_logprobs=tuple(logprobs[:end]),
        finish_reason="length" if end is None else "stop",
        stop_token_id=None if end is None else token_ids[end],
    )


def _end_ids(directory: Path, config: dict[str, Any]) -> list[int]:
    found: list[int] = []
    for ids in (_read_json(directory / "generation_config.json").get("eos_token_id"), config.get("eos_token_id")):
        found += ids if isinstance(ids, list) else [ids] if ids is not None else []
    name = _read_json(directory / "tokenizer_config.json").get("eos_token")
    text = name.get("content") if isinstance(name, dict) else name
    tokens = _read_json(directory / "tokenizer.json").get("added_tokens", []) if text else []
    return found + [int(token["id"]) for token in tokens if token["content"] == text]


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
