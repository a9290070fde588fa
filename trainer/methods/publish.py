"""Publishes what a run trained: one adapter on the policy's base, or a whole model, with card and lineage.

It knows nothing about how it was trained.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from trainer.export import export_trained
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
    return export_trained(_trained(run), run.policy, output, version=version, card=card, training=training)


def _trained(run: Run) -> Any:
    """What the run left, as a model with one adapter, or a whole one."""
    place = run.policy.model_directory if run.config.lora_rank else run.trained
    model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32)
    return PeftModel.from_pretrained(model, run.trained) if run.config.lora_rank else model
