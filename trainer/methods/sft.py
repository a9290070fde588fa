"""Supervised fine-tuning on the chosen lists of pairs (GQR eq. 1), without the rejected ones.

It knows nothing about the reference, which only the KL divergence of a whole model is measured from.
"""

from trl import SFTConfig, SFTTrainer

from service.contract.errors import ArtifactError
from trainer.encoding import Encoded
from trainer.methods.fit import arguments, dataset, fit
from trainer.methods.models import adapter_config, to_train, tokenizer
from trainer.methods.run import Run
from trainer.sft import labelled

_LEARNING_RATE = {"lora": 1e-3, "full": 1e-4}


def train(run: Run) -> None:
    """Fine-tune on each chosen list once, however many pairs it stands in.

    Raises:
        ArtifactError: There is no chosen list.
    """
    lists = list(dict.fromkeys((pair.prompt, pair.chosen) for pair in run.pairs if pair.chosen))
    if not lists:
        raise ArtifactError(f"None of the {len(run.pairs)} pairs has a chosen list to learn from. Make others.")
    rows = [labelled(Encoded(prompt, chosen), run.config.max_tokens) for prompt, chosen in lists]
    ordered = dataset(rows, [len(row["input_ids"]) for row in rows], run.config)
    learning_rate = _LEARNING_RATE["lora" if run.config.lora_rank else "full"]
    trainer = SFTTrainer(
        model=to_train(run),
        args=SFTConfig(**arguments(run, len(ordered), learning_rate)),
        train_dataset=ordered,
        processing_class=tokenizer(run.policy),
        peft_config=adapter_config(run),
    )
    fit(trainer, run)
