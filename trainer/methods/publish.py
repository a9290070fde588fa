"""Publishes what a run trained: one adapter on the policy's base, or a whole model, with card and lineage.

It knows nothing about how it was trained.
"""

from dataclasses import asdict
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from service.contract.policy import load_policy
from trainer.export import export_adapter, export_policy
from trainer.methods.run import Run

_CARD = """# {version}

Trained from {policy} by `nextquery train preferences --method {method}`, with {reference} as the reference.

| figure | value |
|---|---:|
{rows}
"""


def publish(run: Run, output: Path, version: str, figures: dict[str, float], **inputs: str) -> str:
    """Publish `run.trained` at `output`. Returns the SHA-256 of the manifest."""
    rows = "\n".join(f"| {name} | {value:.4g} |" for name, value in figures.items())
    names = {"method": run.method, "policy": run.policy.version, "reference": run.reference.version}
    card = _CARD.format(version=version, rows=rows, **names)
    training = {**names, **inputs, "figures": figures, **asdict(run.config)}
    if run.config.lora_rank:
        base = load_policy(run.policy.model_directory)
        model = AutoModelForCausalLM.from_pretrained(base.directory, dtype=torch.float32)
        return export_adapter(
            PeftModel.from_pretrained(model, run.trained),
            base,
            output,
            version=version,
            card=card,
            lineage=run.policy.version,
            decoding=run.policy.decoding,
            training=training,
        )
    return export_policy(
        AutoModelForCausalLM.from_pretrained(run.trained, dtype=torch.float32),
        run.policy.directory,
        output,
        version=version,
        text_format=run.policy.tokenizer.format,
        lineage=run.policy.version,
        decoding=run.policy.decoding,
        card=card,
        training=training,
    )
