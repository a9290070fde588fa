"""Figures of a run as it goes: what the trainer logs, how far the policy went from its SFT base, and a stop when broken.

It knows nothing about losses or files.
"""

import math
from typing import Any

import torch
from transformers import TrainerCallback

from service.contract.errors import ArtifactError
from service.contract.progress import Report
from trainer.methods.models import reference_model, without_adapter
from trainer.methods.run import Run

FIGURES = (
    "loss",
    "rewards/chosen",
    "rewards/rejected",
    "rewards/margins",
    "rewards/accuracies",
    "logps/chosen",
    "logps/rejected",
)
_SEQUENCES = 8  # in a forward pass of the divergence


class Divergence:
    """KL divergence of the policy from its SFT base, in nats a token.

    Exact over the vocabulary, KL(policy || base) at each token of the chosen and rejected lists of `kl_pairs` pairs,
    evenly taken from the file, given the tokens before it; the mean over these tokens. The lists were written by the
    policy that candidates came from, so as the policy moves away it stands for, but is not, the divergence on its own
    lists. When every weight is trained there is no adapter to take off, and the divergence is from the reference.
    """

    def __init__(self, trainer: Any, run: Run) -> None:
        self._trainer = trainer
        self._own_reference = None if run.config.lora_rank else getattr(trainer, "ref_model", None)
        if not run.config.lora_rank and self._own_reference is None:
            self._own_reference = reference_model(run).to(trainer.accelerator.device)
        pairs = run.pairs[:: max(1, len(run.pairs) // run.config.kl_pairs)][: run.config.kl_pairs]
        sequences = [(pair.prompt, response) for pair in pairs for response in (pair.chosen, pair.rejected) if response]
        sequences.sort(key=lambda sequence: len(sequence[0]) + len(sequence[1]))  # little padding
        self._batches = [sequences[at : at + _SEQUENCES] for at in range(0, len(sequences), _SEQUENCES)]

    def measure(self) -> float:
        """The divergence now; every process measures all of it."""
        model, total, tokens = self._trainer.accelerator.unwrap_model(self._trainer.model), 0.0, 0
        was_training = model.training
        model.eval()
        for batch in self._batches:
            divergences = self._of(model, batch)
            total, tokens = total + divergences.sum().item(), tokens + len(divergences)
        model.train(was_training)
        return total / tokens

    def _of(self, model: Any, batch: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> torch.Tensor:
        """KL at every response token of `batch`, (T,)."""
        inputs, predicts = _padded(batch, self._trainer.accelerator.device)
        with torch.no_grad(), self._trainer.accelerator.autocast():
            logits = model(**inputs).logits[predicts]
            with without_adapter(model):
                base = (model if self._own_reference is None else self._own_reference)(**inputs).logits[predicts]
        log_p, log_q = logits.float().log_softmax(-1), base.float().log_softmax(-1)
        return (log_p.exp() * (log_p - log_q)).sum(-1)


class Watch(TrainerCallback):  # type: ignore[misc]
    """Hands the figures of a trainer to `report`, and stops it when the loss is no number."""

    def __init__(self, report: Report, divergence: Divergence) -> None:
        self._report, self._divergence = report, divergence

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Log the last step too, whatever the interval."""
        control.should_log = control.should_log or state.global_step >= state.max_steps

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if not logs or "loss" not in logs:
            return
        if not math.isfinite(float(logs["loss"])):
            raise ArtifactError(
                f"The loss of step {state.global_step} is {logs['loss']}, so training stopped and nothing is "
                "published. Usually the learning rate is too high: lower it, and give another work directory."
            )
        divergence = self._divergence.measure()
        if state.is_world_process_zero:
            figures = {"step": state.global_step, **{key: float(logs[key]) for key in FIGURES if key in logs}}
            self._report(min(state.global_step / state.max_steps, 1.0), {**figures, "kl": divergence})


def _padded(
    batch: list[tuple[tuple[int, ...], tuple[int, ...]]], device: Any
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Inputs of (B, T), padded on the right, and a mask that says True where the next token is one of the response."""
    longest = max(len(prompt) + len(response) for prompt, response in batch)
    ids, attention = torch.zeros(len(batch), longest, dtype=torch.long), torch.zeros(len(batch), longest).long()
    predicts = torch.zeros(len(batch), longest, dtype=torch.bool)
    for row, (prompt, response) in enumerate(batch):
        length = len(prompt) + len(response)
        ids[row, :length], attention[row, :length] = torch.tensor(prompt + response), 1
        predicts[row, len(prompt) - 1 : length - 1] = True
    return {"input_ids": ids.to(device), "attention_mask": attention.to(device)}, predicts.to(device)
