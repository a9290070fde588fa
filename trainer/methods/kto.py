"""Kahneman-Tversky optimization on single lists (GQR B.2; Ethayarajh and others, 2024): TRL's KTOTrainer.

It knows nothing about pairs: each chosen list is one to write, each rejected list one not to write.
"""

from collections.abc import Sequence
from typing import Any

from datasets import Dataset
from trl import KTOConfig, KTOTrainer

from service.contract.errors import ArtifactError
from trainer.methods.fit import arguments, fit, in_order
from trainer.methods.models import adapter_config, reference_model, to_train, tokenizer
from trainer.methods.run import Run

_LEARNING_RATE = {"lora": 1e-3, "full": 2e-5}
_Row = dict[str, Any]


def train(run: Run) -> None:
    """Train on every list once an epoch, however many pairs it stands in."""
    fit(trainer_of(run), run)


def trainer_of(run: Run) -> Any:
    """TRL's trainer on our token ids; it tokenizes nothing.

    Raises:
        ArtifactError: All lists are to be written, or none.
    """
    lists = single_lists(run)
    wanted = sum(row["label"] for row in lists)
    if not 0 < wanted < len(lists):
        raise ArtifactError(
            f"KTO needs lists to write and lists not to write, and of {len(lists)} there are {wanted} of the first kind. "
            "Make other pairs, or train by sft on the first kind alone."
        )
    rows = in_training_order(lists, run)
    return _Kto(
        model=to_train(run),
        ref_model=reference_model(run),
        args=KTOConfig(
            **arguments(run, len(rows), _LEARNING_RATE["lora" if run.config.lora_rank else "full"]),
            beta=run.config.beta,
            undesirable_weight=wanted / (len(lists) - wanted),  # so that both kinds weigh the same (its eq. 8)
        ),
        train_dataset=rows,
        processing_class=tokenizer(run.policy),
        peft_config=adapter_config(run),
    )


def single_lists(run: Run) -> list[_Row]:
    """The distinct lists of all pairs as token ids; `label` says whether a list is one to write."""
    kinds = [
        list(dict.fromkeys((pair.prompt, getattr(pair, side)) for pair in run.pairs if getattr(pair, side)))
        for side in ("chosen", "rejected")
    ]
    return [
        {"prompt_ids": list(prompt), "completion_ids": list(response), "label": side == 0}
        for side, lists in enumerate(kinds)
        for prompt, response in lists
    ]


def in_training_order(lists: Sequence[_Row], run: Run) -> Any:
    """The rows of all epochs; each batch also has its responses one prompt further, which the KL of eq. 6 is taken from."""
    lengths = [len(row["prompt_ids"]) + len(row["completion_ids"]) for row in lists]
    order, size = in_order(lengths, run.config), run.config.batch_size
    rows = []
    for at in range(0, len(order), size):
        batch = [lists[number] for number in order[at : at + size]]
        turned = [batch[-1], *batch[:-1]]
        rows += [
            {**row, "KL_completion_ids": other["completion_ids"]} for row, other in zip(batch, turned, strict=True)
        ]
    return Dataset.from_list(rows)


class _Kto(KTOTrainer):  # type: ignore[misc]
    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset  # TRL 1.16 would tokenize text; ours are ids
