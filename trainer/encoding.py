"""Examples as token ids, exactly as serving renders them: the prompt's ids, then the response's.

It knows nothing about models; every training method takes its ids from here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from service.contract.tasks import get_task
from service.contract.tokenizer import PromptTokenizer
from trainer.catalogue.example import Example

PROMPT_BUDGET = 512


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids of one example; `response` ends with the end-of-sequence token."""

    prompt: tuple[int, ...]
    response: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.response)


def encode_in_a_row(queries: Sequence[str], tokenizer: PromptTokenizer) -> Encoded:
    """The ids of queries after each other, without a prompt: plain language of queries."""
    text = tokenizer.format.separator.join(queries)
    return Encoded(tuple(tokenizer.start_ids), tuple(tokenizer.encode_response(text)))


def encode(example: Example, tokenizer: PromptTokenizer, *, budget: int = PROMPT_BUDGET) -> Encoded:
    """The ids a policy reads and should write for `example`."""
    task = get_task(example.task)
    prompt = task.render(example.context, tokenizer, budget=budget).token_ids
    text = task.response(list(example.queries), example.texts, tokenizer.format)
    return Encoded(prompt, tuple(tokenizer.encode_response(text)))
