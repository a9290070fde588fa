"""Simple preference optimization on pairs, without a reference (GQR B.2; Meng and others, 2024): TRL's CPOTrainer.

It knows nothing about how pairs are made or where the result goes. TRL calls the trainer experimental: all of it stays here.
"""

import os
from typing import Any

from datasets import disable_progress_bars

from trainer.methods.fit import arguments, dataset, fit
from trainer.methods.models import adapter_config, to_train, tokenizer
from trainer.methods.pairs import PairIds
from trainer.methods.run import Run
from trainer.sft import IGNORED

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
from trl.experimental.cpo import CPOConfig, CPOTrainer  # after its warning was switched off

_LEARNING_RATE = {"lora": 3e-4, "full": 1e-5}  # less than DPO's: nothing else keeps the policy near to where it began
BETA, GAMMA = 2.0, 1.0
"""Scale of the mean log-probability, and the least margin; the paper's are 2 to 2.5 and half of them."""


def train(run: Run) -> None:
    """Train on the pairs; the reference only says how far the policy went."""
    fit(trainer_of(run), run)


def trainer_of(run: Run) -> Any:
    """TRL's trainer on our token ids; it tokenizes nothing."""
    disable_progress_bars()  # of maps over rows that are whole already
    pairs = run.whole_pairs()
    rows = dataset([_row(pair) for pair in pairs], [len(pair) for pair in pairs], run.config)
    learning_rate = _LEARNING_RATE["lora" if run.config.lora_rank else "full"]
    return _Simpo(
        model=to_train(run),
        args=CPOConfig(
            **arguments(run, len(rows), learning_rate),
            loss_type="simpo",
            cpo_alpha=0.0,  # with the likelihood of chosen lists it would be CPO
            beta=BETA,
            simpo_gamma=GAMMA,
            remove_unused_columns=False,
        ),
        train_dataset=rows,
        processing_class=tokenizer(run.policy),
        peft_config=adapter_config(run),
    )


class _Simpo(CPOTrainer):  # type: ignore[misc]
    def tokenize_row(self, feature: Any, model: Any = None) -> Any:
        return feature  # ours are ids already


def _row(pair: PairIds) -> dict[str, list[int]]:
    row = {"prompt_input_ids": list(pair.prompt), "prompt_attention_mask": [1] * len(pair.prompt)}
    for side, response in (("chosen", pair.chosen), ("rejected", pair.rejected)):
        ids = [*pair.prompt, *response]
        row |= {
            f"{side}_input_ids": ids,
            f"{side}_attention_mask": [1] * len(ids),
            f"{side}_labels": [IGNORED] * len(pair.prompt) + list(response),
        }
    return row
