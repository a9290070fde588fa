"""The model of PPO: a policy and a value head on its last hidden states, one module for one optimiser.

It knows nothing about rewards or losses. Log-probabilities are in float32 whatever the model computes in.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trainer.methods.models import without_adapter


@dataclass(frozen=True, slots=True)
class Sequences:
    """Prompts padded on the left and responses padded on the right, so that all responses begin in one column.

    `ids`, `attention`: (B, P + T). `tokens`, `mask`: the responses alone, (B, T); the mask says True where one was written.
    """

    ids: Tensor
    attention: Tensor
    tokens: Tensor
    mask: Tensor

    @classmethod
    def of(cls, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> "Sequences":
        """Prompts and what was written for each."""
        rows, before, after = len(prompts), max(map(len, prompts)), max(1, *map(len, responses))
        ids = torch.zeros(rows, before + after, dtype=torch.long)
        attention = torch.zeros_like(ids)
        for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
            begin, end = before - len(prompt), before + len(response)
            ids[row, begin:end] = torch.tensor([*prompt, *response])
            attention[row, begin:end] = 1
        return cls(ids, attention, ids[:, before:], attention[:, before:].bool())

    def rows(self, chosen: Any) -> "Sequences":
        """Some of the rows, without columns that none of them needs."""
        attention, width = self.attention[chosen], self.tokens.shape[1]
        before = self.ids.shape[1] - width
        used = attention.any(0)
        first = int(used[:before].long().argmax()) if before else 0
        after = max(1, int(used[before:].sum()))
        columns = slice(first, before + after)
        return Sequences(
            self.ids[chosen, columns], attention[:, columns], self.tokens[chosen, :after], self.mask[chosen, :after]
        )

    def to(self, device: Any) -> "Sequences":
        """The same on another device."""
        return Sequences(*(each.to(device) for each in (self.ids, self.attention, self.tokens, self.mask)))


class ActorCritic(nn.Module):  # type: ignore[misc]
    """A causal language model, with an adapter or without, and a value for every token that it writes."""

    def __init__(self, policy: Any) -> None:
        """`policy`: a transformers causal model, or a peft model on one. The value head starts at zero: it expects nothing."""
        super().__init__()
        self.policy = policy
        config = policy.config.get_text_config()
        self.value_head = nn.Linear(config.hidden_size, 1, dtype=torch.float32)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)

    def forward(self, sequences: Sequences) -> tuple[Tensor, Tensor]:
        """Log-probabilities of all that might stand at each token of the responses, (B, T, V), and values before it, (B, T)."""
        found, written = _run(self.policy, sequences, output_hidden_states=True), sequences.tokens.shape[1]
        hidden = found.hidden_states[-1][:, -written - 1 : -1]
        return found.logits[:, :-1].float().log_softmax(-1), self.value_head(hidden.float()).squeeze(-1)

    def reference_logprobs(self, sequences: Sequences) -> Tensor:
        """Log-probabilities under the base without the adapter, (B, T). Only where there is an adapter to take off."""
        with without_adapter(self.policy):
            return logprobs_of(self.policy, sequences)


def logprobs_of(model: Any, sequences: Sequences) -> Tensor:
    """Log-probabilities of the tokens of responses under a causal model, (B, T), without gradients."""
    with torch.no_grad():
        logits = _run(model, sequences).logits[:, :-1]
        return of_tokens(logits.float().log_softmax(-1), sequences.tokens)


def of_tokens(logprobs: Tensor, tokens: Tensor) -> Tensor:
    """The log-probability of what was written, (B, T), of those of the vocabulary, (B, T, V)."""
    return logprobs.gather(-1, tokens[..., None]).squeeze(-1)


def _run(model: Any, sequences: Sequences, **options: Any) -> Any:
    """The model's outputs; its logits are those that the tokens of the responses are predicted from, and one more at last."""
    return model(
        input_ids=sequences.ids,
        attention_mask=sequences.attention,
        position_ids=(sequences.attention.cumsum(-1) - 1).clamp(min=0),
        logits_to_keep=sequences.tokens.shape[1] + 1,  # of the prompts nothing is asked
        use_cache=False,
        **options,
    )
