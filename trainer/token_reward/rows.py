"""Labels as token ids and classes: what reward models of both levels learn from.

It knows nothing about models.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from service.contract.policy import Policy
from service.contract.tasks import get_task
from trainer.labels import Label
from trainer.ppo.rollout import prompt_ids_of
from trainer.prompt_files import share_of
from trainer.words import read_response, token_classes


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardRow:
    """One response. `classes`: of each of its tokens, (T,). `whole`: whether it is relevant as a whole."""

    prompt_id: str
    prompt: tuple[int, ...]
    response: tuple[int, ...]
    classes: tuple[int, ...]
    whole: bool

    def __len__(self) -> int:
        return len(self.prompt) + len(self.response)


def rows_of(labels: Sequence[Label], policy: Policy) -> list[RewardRow]:
    """The rows of labels of responses that `policy`, or another one with its tokens, wrote; empty responses tell nothing."""
    return [_row(label, policy) for label in labels if label.ids]


def apart(rows: Sequence[RewardRow], held_out: float) -> tuple[list[RewardRow], list[RewardRow]]:
    """Rows to learn from, and those held out: a share of the prompts, by a hash, so that no prompt is in both."""
    learnt: list[RewardRow] = []
    kept: list[RewardRow] = []
    for row in rows:
        (kept if share_of(row.prompt_id) < held_out else learnt).append(row)
    return learnt, kept


def _row(label: Label, policy: Policy) -> RewardRow:
    prompt, tokenizer = label.prompt, policy.tokenizer
    response = read_response(label.ids, get_task(prompt.task), tokenizer, n=prompt.context.n)
    verdicts = [word for query in label.relevant for word in query]
    return RewardRow(
        prompt_id=prompt.prompt_id,
        prompt=prompt_ids_of(prompt, tokenizer),
        response=label.ids,
        classes=tuple(token_classes(response, verdicts)),
        whole=label.whole,
    )
