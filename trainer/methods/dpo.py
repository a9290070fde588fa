"""Direct preference optimization on pairs (GQR 3.2.2, Algorithm 1 line 25): TRL's DPOTrainer.

It knows nothing about how pairs are made or where the result goes.
"""

from typing import Any

import torch
from trl import DPOConfig, DPOTrainer

from service.contract.errors import ArtifactError
from trainer.methods.fit import arguments, dataset, fit
from trainer.methods.models import adapter_config, fresh, reference_model, same, to_train, tokenizer
from trainer.methods.run import Run

_LEARNING_RATE = {"lora": 1e-3, "full": 2e-5}
STEP_0_TOLERANCE = {"float32": 0.01, "bfloat16": 1.0}  # nats of a whole list, mean over the batch


def train(run: Run) -> None:
    """Train on the pairs against the reference, after the rewards before the first update were found right."""
    fit(trainer_of(run), run)


def trainer_of(run: Run) -> Any:
    """TRL's trainer on our token ids; it tokenizes nothing."""
    pairs = run.whole_pairs()
    rows = dataset([_row(pair) for pair in pairs], [len(pair) for pair in pairs], run.config)
    learning_rate = _LEARNING_RATE["lora" if run.config.lora_rank else "full"]
    return _Dpo(
        run,
        model=to_train(run),
        ref_model=reference_model(run),
        args=DPOConfig(
            **arguments(run, len(rows), learning_rate),
            beta=run.config.beta,
            loss_type=["sigmoid", "sft"],
            loss_weights=[1.0, run.config.chosen_weight],
        ),
        train_dataset=rows,
        processing_class=tokenizer(run.policy),
        peft_config=adapter_config(run),
    )


class _Dpo(DPOTrainer):  # type: ignore[misc]
    def __init__(self, run: Run, **options: Any) -> None:
        self._run, self._checked = run, False
        super().__init__(**options)

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset  # TRL 1.16 would tokenize text; ours are ids

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.state.global_step == 0 and not self._checked:
            self._check_rewards(self._prepare_inputs(inputs))
            self._checked = True
        return loss

    def _check_rewards(self, inputs: dict[str, Any]) -> None:
        """Before the first update a reward is beta x (log-prob of the policy - of the reference), as both are on disk.

        That is 0 where the reference is the policy itself.
        """
        precision = "bfloat16" if self.args.bf16 else "float32"
        expected = self._expected(inputs)
        for name, wanted in zip(("chosen", "rejected"), expected, strict=True):
            found = self._metrics["train"][f"rewards/{name}"][-1]
            if not abs(found - wanted) <= self.beta * STEP_0_TOLERANCE[precision]:
                raise ArtifactError(
                    f"Before the first update the mean reward of the {name} lists is {found:.4f}, and must be "
                    f"{wanted:.4f} with policy {self._run.policy.version} and reference {self._run.reference.version}. "
                    "Usually the reference was loaded from another place than it says: check both directories."
                )

    def _expected(self, inputs: dict[str, Any]) -> tuple[float, float]:
        if same(self._run.policy, self._run.reference):
            return 0.0, 0.0
        difference = self._logprobs(self._run.policy, inputs) - self._logprobs(self._run.reference, inputs)
        chosen, rejected = self.accelerator.gather(self.beta * difference.view(2, -1).mean(1, keepdim=True).T).mean(0)
        return chosen.item(), rejected.item()

    def _logprobs(self, policy: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """Log-probability of every response under a policy as it lies on disk, (2B,): chosen, then rejected."""
        model = fresh(policy).to(self.accelerator.device)
        with torch.no_grad(), self.accelerator.autocast():
            logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits[:, :-1]
        picked = logits.float().log_softmax(-1).gather(2, inputs["input_ids"][:, 1:, None]).squeeze(2)
        return (picked * inputs["completion_mask"][:, 1:]).sum(1)


def _row(pair: Any) -> dict[str, list[int]]:
    return {"prompt_ids": list(pair.prompt), "chosen_ids": list(pair.chosen), "rejected_ids": list(pair.rejected)}
