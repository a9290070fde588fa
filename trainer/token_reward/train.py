"""Trains a reward model on labels and publishes it: local and global loss at token level, cross-entropy at sentence level.

It knows no judge. Both levels are one code path on the same rows (TPPO 3.3 and its baseline).
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from service.contract.errors import ArtifactError, ConfigurationError
from service.contract.policy import Policy
from service.contract.progress import Report, reporter
from trainer.candidates.query_sampler import seed_of
from trainer.methods.fit import in_order, newest_checkpoint
from trainer.methods.plots import draw_lines
from trainer.methods.run import MethodConfig
from trainer.ppo.actor_critic import Sequences
from trainer.token_reward.losses import balanced, global_loss, local_loss
from trainer.token_reward.measure import Scored, figures, reliability, scored
from trainer.token_reward.model import Level, RewardModel, new_model, save_model
from trainer.token_reward.rows import RewardRow, apart

_FEWEST_HELD_OUT = 20
_ON_THE_WAY = 512  # rows held out that a point of the curves is measured on; the figures at the end are of all
_CARD = """# {version}

A reward model at {level} level for responses of {policy}, trained by `nextquery train reward` on {rows} labels.
Held out were {held_out}.

| figure | value |
|---|---:|
{figures}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardConfig:
    """How a reward model is trained; the defaults suit the starter policy on a CPU.

    Attributes:
        level: `token` or `sentence`.
        looks_ahead: the backbone sees both sides, instead of what stands before.
        local_weight: of eq. 1 in eq. 3; that of eq. 2 is the rest to 1.
        class_weights: w_c of eq. 1.
        most_frequent: how many of the more frequent of classes 1 and 2 stay for each of the other.
        held_out: share of the prompts that the model is measured on.
        evaluations: how often it is, in the course of training.
    """

    level: Level = "token"
    looks_ahead: bool = True
    local_weight: float = 0.5
    class_weights: tuple[float, float, float] = (0.2, 1.0, 1.0)
    most_frequent: float = 3.0
    held_out: float = 0.1
    epochs: float = 2.0
    batch_size: int = 32
    learning_rate: float = 3e-4
    evaluations: int = 8
    seed: int = 7

    def __post_init__(self) -> None:
        """Refuse what cannot be trained.

        Raises:
            ConfigurationError: A number is out of bounds; the text says which.
        """
        if self.level not in ("token", "sentence"):
            raise ConfigurationError(f"There is no level {self.level!r}. It is token or sentence.")
        if not (0 <= self.local_weight <= 1 and 0 < self.held_out < 1 and self.most_frequent >= 1):
            raise ConfigurationError(
                f"local_weight is {self.local_weight}, held_out {self.held_out} and most_frequent {self.most_frequent}. The "
                "first must be from 0 to 1, the second between them, the third at least 1."
            )


def train_reward(
    rows: Sequence[RewardRow],
    policy: Policy,
    output: Path,
    work: Path,
    config: RewardConfig,
    *,
    version: str,
    quiet: bool = False,
) -> dict[str, float]:
    """Train on `rows` and publish at `output`; returns the figures on the rows held out. A killed run goes on.

    Raises:
        ArtifactError: Something is at `output`, there are too few rows, or the loss is no number.
    """
    if output.exists():
        raise ArtifactError(f"{output} exists already, and a version never changes. Give another output directory.")
    learnt, held_out = apart(rows, config.held_out)
    if len(learnt) < config.batch_size or len(held_out) < _FEWEST_HELD_OUT:
        raise ArtifactError(
            f"There are {len(learnt)} labels to learn from and {len(held_out)} held out, and a reward model needs "
            f"{config.batch_size} and {_FEWEST_HELD_OUT} at least. Label more responses."
        )
    torch.manual_seed(config.seed)
    work.mkdir(parents=True, exist_ok=True)
    model = _fitted(
        new_model(policy, config.level, looks_ahead=config.looks_ahead), learnt, held_out, work, config, quiet
    )
    found = scored(model, held_out)
    told = figures(found)
    _draw(work, found)
    save_model(
        model,
        policy,
        output,
        version=version,
        card=_CARD.format(
            version=version,
            level=config.level,
            policy=policy.version,
            rows=len(learnt),
            held_out=len(held_out),
            figures="\n".join(f"| {name} | {value:.4g} |" for name, value in told.items()),
        ),
        training={**asdict(config), "rows": len(learnt), "held_out": len(held_out), "figures": told},
    )
    return told


def loss_of(model: RewardModel, batch: dict[str, Any], config: RewardConfig) -> Tensor:
    """What is minimised on a batch: eq. 3, or the cross-entropy of relevance."""
    logits = model(batch["sequences"])
    if config.level == "sentence":
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, batch["wholes"].float())
    classes, valid = batch["classes"], batch["valid"]
    weights = logits.new_tensor(config.class_weights)
    of_tokens = local_loss(logits, classes, valid, weights=weights)
    of_wholes = global_loss(logits, classes, valid, relevant=batch["wholes"])
    return config.local_weight * of_tokens + (1.0 - config.local_weight) * of_wholes


def collate(rows: Sequence[RewardRow], config: RewardConfig) -> dict[str, Any]:
    """A batch of rows to learn from. Its rows decide who stays when classes are balanced, also in a run that was killed."""
    sequences = Sequences.of([row.prompt for row in rows], [row.response for row in rows])
    classes = torch.zeros_like(sequences.tokens)
    for number, row in enumerate(rows):
        classes[number, : len(row.classes)] = torch.tensor(row.classes)
    generator = torch.Generator().manual_seed(seed_of(config.seed, *(row.prompt_id for row in rows)))
    valid = balanced(classes, sequences.mask, most=config.most_frequent, generator=generator)
    return {
        "sequences": sequences,
        "classes": classes,
        "valid": valid,
        "wholes": torch.tensor([row.whole for row in rows]),
    }


def _fitted(
    model: RewardModel,
    learnt: Sequence[RewardRow],
    held_out: Sequence[RewardRow],
    work: Path,
    config: RewardConfig,
    quiet: bool,
) -> RewardModel:
    _claim(work, config, len(learnt))
    order = in_order(
        [len(row) for row in learnt], MethodConfig(seed=config.seed, batch_size=config.batch_size, epochs=config.epochs)
    )
    steps = max(1, len(order) // config.batch_size)
    arguments = TrainingArguments(
        output_dir=str(work),
        num_train_epochs=1,  # `in_order` has them all
        train_sampling_strategy="sequential",
        per_device_train_batch_size=config.batch_size,
        dataloader_drop_last=True,
        remove_unused_columns=False,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=0.1,
        weight_decay=0.01,
        logging_steps=max(1, steps // (4 * config.evaluations)),
        logging_first_step=True,
        logging_nan_inf_filter=False,
        save_steps=max(1, steps // config.evaluations),
        save_total_limit=2,
        seed=config.seed,
        use_cpu=not torch.cuda.is_available(),
        bf16=torch.cuda.is_available(),
        report_to="none",
        disable_tqdm=True,
    )
    fit = _Fit(
        model=model,
        args=arguments,
        train_dataset=_Rows(learnt, order),
        data_collator=lambda rows: collate(rows, config),
    )
    fit.config = config
    fit.remove_callback(PrinterCallback)
    report = reporter(work / "metrics.jsonl", every_s=0.0, quiet=quiet)
    every = max(1, steps // config.evaluations)
    fit.add_callback(_Watch(report, lambda: figures(scored(model.eval(), held_out[:_ON_THE_WAY])), every))
    checkpoint = newest_checkpoint(work)
    fit.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    model.eval().requires_grad_(False)
    return model


class _Rows(torch.utils.data.Dataset):  # type: ignore[misc]
    def __init__(self, rows: Sequence[RewardRow], order: Sequence[int]) -> None:
        self._rows, self._order = rows, order

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, place: int) -> RewardRow:
        return self._rows[self._order[place]]


class _Fit(Trainer):  # type: ignore[misc]
    config: RewardConfig

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **_: Any) -> Any:
        inputs = {**inputs, "sequences": inputs["sequences"].to(self.args.device)}
        loss = loss_of(model, inputs, self.config)
        return (loss, {}) if return_outputs else loss


class _Watch(TrainerCallback):  # type: ignore[misc]
    """Hands figures to `report`, and stops training when the loss is no number."""

    def __init__(self, report: Report, measure: Any, every: int) -> None:
        self._report, self._measure, self._every = report, measure, every

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if not logs or "loss" not in logs:
            return
        if not math.isfinite(float(logs["loss"])):
            raise ArtifactError(
                f"The loss of step {state.global_step} is {logs['loss']}, so training stopped and nothing is published. "
                "Usually the learning rate is too high: lower it, and give another work directory."
            )
        if state.is_world_process_zero:
            done = min(state.global_step / state.max_steps, 1.0)
            self._report(done, {"step": state.global_step, "loss": float(logs["loss"])})

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if state.is_world_process_zero and (
            state.global_step % self._every == 0 or state.global_step >= state.max_steps
        ):
            told = self._measure()
            model.train()
            self._report(min(state.global_step / state.max_steps, 1.0), {"step": state.global_step, **told})


def _claim(work: Path, config: RewardConfig, rows: int) -> None:
    """Let `work` belong to this configuration and these rows."""
    file, wanted = work / "run.json", json.loads(json.dumps({**asdict(config), "rows": rows}))
    if file.is_file() and json.loads(file.read_text()) != wanted:
        raise ConfigurationError(
            f"{work} holds the checkpoints of another reward model. Give another work directory, or delete this one."
        )
    file.write_text(json.dumps(wanted, indent=2) + "\n")


def _draw(work: Path, found: Scored) -> None:
    """Draw `auc.png` (Figure 6 of TPPO) from the metrics, and `calibration.png` of the rows held out."""
    from matplotlib.figure import Figure

    points = [json.loads(line) for line in (work / "metrics.jsonl").read_text().splitlines()]
    lines = {
        name: [(point["step"], point[key]) for point in points if key in point]
        for name, key in (("tokens", "token_auc"), ("responses", "sentence_auc"))
    }
    shown = {name: listed for name, listed in lines.items() if listed}
    if shown:
        draw_lines(shown, "AUC on rows held out", work / "auc.png", marker="o")
    figure = Figure(figsize=(4.5, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1)
    for name, p, true in (("tokens", found.of_tokens, found.tokens), ("responses", found.of_rows, found.wholes)):
        if len(p):
            bins = reliability(p, true)
            axes.plot([mean for mean, _, _ in bins], [share for _, share, _ in bins], marker="o", label=name)
    axes.set(xlabel="score", ylabel="share that is relevant", xlim=(0, 1), ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(work / "calibration.png", dpi=120)
