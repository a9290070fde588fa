"""Supervised fine-tuning on annotated lists: TRL's SFTTrainer, loss on the response only (GQR eq. 1).

It knows nothing about clicks or preferences. The token ids are made by the code that serves, so what is trained is
exactly what will be asked. LoRA or full; either way the result is one merged model.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

from service.contract.errors import ArtifactError
from service.contract.policy import Decoding, Policy, load_policy
from service.contract.progress import Report, reporter
from trainer.catalogue.catalogue import load_catalogue
from trainer.catalogue.compose import TASK_SHARES, compose
from trainer.catalogue.example import Example
from trainer.encoding import Encoded, encode
from trainer.export import export_policy
from trainer.rewriters import Rewriter
from trainer.rewriters.catalogue import CatalogueRewriter

IGNORED = -100  # the label of a token without loss, in torch and transformers


@dataclass(frozen=True, slots=True, kw_only=True)
class SftConfig:
    """How a policy is fine-tuned. `lora_rank` 0 trains every weight."""

    lists_per_task: int = 500
    rewrites: int = 1
    epochs: float = 1.0
    batch_size: int = 16
    learning_rate: float = 3e-4
    lora_rank: int = 0
    max_tokens: int = 768
    seed: int = 7
    save_steps: int = 50


def sft(
    base: str,
    output: Path,
    work: Path,
    config: SftConfig,
    *,
    version: str,
    examples: Sequence[Example] = (),
    decoding: Decoding | None = None,
    card: str = "",
    quiet: bool = False,
) -> str:
    """Fine-tune `base` (a policy, or any causal model by path or hub id) and publish it at `output`.

    `examples`: what to learn from, instead of annotated lists of the catalogue. `decoding`: how lists are sampled from it;
    None means as from the base. Goes on from the newest checkpoint in `work`, where `metrics.jsonl` and `loss.png` go too.
    Returns the SHA-256 of the published manifest. Under `torchrun` the first process publishes, and the others return "".

    Raises:
        ArtifactError: The base cannot be found or trusted, or something is at `output` already.
    """
    if output.exists():
        raise ArtifactError(f"{output} exists already, and a version never changes. Give another output directory.")
    policy = load_policy(base)
    rows = [encode(example, policy.tokenizer) for example in examples or annotated_lists(config)]
    model = train(policy, rows, work, config, quiet=quiet)
    if int(os.environ.get("RANK", "0")) > 0:
        return ""
    plot_loss(work / "metrics.jsonl", work / "loss.png")
    return export_policy(
        model,
        policy.directory,
        output,
        version=version,
        text_format=policy.tokenizer.format,
        decoding=decoding or policy.decoding,
        card=card or f"# {version}\n\nFine-tuned from {policy.version} by `nextquery train sft`.\n",
        training={"method": "sft", "base": policy.version, "lists": len(rows), **asdict(config)},
    )


def annotated_lists(config: SftConfig, rewriter: Rewriter | None = None) -> list[Example]:
    """`lists_per_task` lists of each task, and the rewrites of each, shuffled; the same for the same seed.

    `rewriter` None is the project's own paraphraser.

    Raises:
        JudgeError: The model that rewrites cannot be reached at all.
    """
    catalogue = load_catalogue()
    plain = [
        example
        for task in TASK_SHARES
        for example in islice(compose(catalogue, config.seed, task=task), config.lists_per_task)
    ]
    seeds = [f"{config.seed}:{each.task}:{number * (1 + config.rewrites)}" for number, each in enumerate(plain)]
    rewritten = (rewriter or CatalogueRewriter()).rewrites(plain, config.rewrites, seeds)
    examples = [each for example, others in zip(plain, rewritten, strict=True) for each in (example, *others)]
    Random(config.seed).shuffle(examples)
    return examples


def train(policy: Policy, rows: list[Encoded], work: Path, config: SftConfig, *, quiet: bool = False) -> Any:
    """The fine-tuned transformers model, adapters merged."""
    import torch
    from datasets import Dataset, disable_progress_bars
    from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback
    from transformers.trainer_utils import get_last_checkpoint
    from trl import SFTTrainer

    disable_progress_bars()
    work.mkdir(parents=True, exist_ok=True)
    model = AutoModelForCausalLM.from_pretrained(policy.directory, dtype=torch.float32)
    trainer = SFTTrainer(
        model=model,
        args=_arguments(work, config, on_gpu=torch.cuda.is_available()),
        train_dataset=Dataset.from_list([labelled(row, config.max_tokens) for row in rows]),
        processing_class=with_padding(AutoTokenizer.from_pretrained(policy.directory)),
        peft_config=_lora(config),
        callbacks=[_progress(reporter(work / "metrics.jsonl", every_s=2.0, quiet=quiet))],
    )
    trainer.remove_callback(PrinterCallback)  # it writes to stdout, where --json belongs
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(work)))
    trained = trainer.accelerator.unwrap_model(trainer.model)
    return trained.merge_and_unload() if config.lora_rank else trained


def labelled(row: Encoded, max_tokens: int) -> dict[str, list[int]]:
    """Ids and labels of one row: only the response has labels, so only it has loss (GQR eq. 1)."""
    ids = [*row.prompt, *row.response][:max_tokens]
    labels = [IGNORED] * len(row.prompt) + list(row.response)
    return {"input_ids": ids, "labels": labels[:max_tokens]}


def plot_loss(metrics: Path, picture: Path) -> None:
    """Draw the loss over the steps, from the JSON lines of a run."""
    from matplotlib.figure import Figure

    points = [json.loads(line) for line in metrics.read_text().splitlines()]
    points = [point for point in points if "loss" in point]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([point["step"] for point in points], [point["loss"] for point in points], linewidth=1.5)
    axes.set(xlabel="step", ylabel="loss on response tokens", title="Fine-tuning")
    axes.grid(alpha=0.3)
    figure.savefig(picture, dpi=120)


def _arguments(work: Path, config: SftConfig, *, on_gpu: bool) -> Any:
    from trl import SFTConfig

    return SFTConfig(
        output_dir=str(work),
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=20,
        max_grad_norm=1.0,
        max_length=config.max_tokens,
        bf16=on_gpu,  # TRL's default is True, also where the processor has none
        gradient_checkpointing=False,  # TRL's default is True; small models need no second forward pass
        train_sampling_strategy="group_by_length",
        logging_steps=5,
        logging_first_step=True,
        save_steps=config.save_steps,
        save_total_limit=2,
        seed=config.seed,
        use_cpu=not on_gpu,
        report_to="none",
        disable_tqdm=True,
    )


def _lora(config: SftConfig) -> Any:
    from peft import LoraConfig

    if not config.lora_rank:
        return None
    return LoraConfig(
        r=config.lora_rank, lora_alpha=2 * config.lora_rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )


def _progress(report: Report) -> Any:
    from transformers import TrainerCallback

    class Progress(TrainerCallback):  # type: ignore[misc]
        """Hands the trainer's figures to `report`."""

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
            if logs and "loss" in logs and state.is_world_process_zero:
                figures = {"step": state.global_step, "loss": round(float(logs["loss"]), 4)}
                report(min(state.global_step / state.max_steps, 1.0), figures)

    return Progress()


def with_padding(tokenizer: Any) -> Any:
    """A tokenizer without a padding token pads with its end; the labels say what counts."""
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
