"""Publishes what PPO trained: one adapter on the policy's base, or a whole model, with card and lineage.

It knows nothing about rewards or steps but what it is told.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from service.contract.policy import Policy, load_policy
from trainer.export import export_adapter, export_policy
from trainer.ppo.config import PpoConfig

_CARD = """# {version}

Trained from {policy} by `nextquery train ppo` for {steps} steps of {prompts} responses, rewarded by {rewards}.

| figure | value |
|---|---:|
{rows}
"""


def publish(
    model: Any,
    policy: Policy,
    output: Path,
    version: str,
    rewards: str,
    figures: Mapping[str, float],
    config: PpoConfig,
) -> str:
    """Publish `model`, which was trained from `policy`, at `output`. Returns the SHA-256 of the manifest.

    `rewards`: what it was rewarded by, in words.
    """
    card = _CARD.format(
        version=version,
        policy=policy.version,
        steps=config.steps,
        prompts=config.prompts,
        rewards=rewards,
        rows="\n".join(f"| {name} | {value:.4g} |" for name, value in figures.items()),
    )
    training = {"method": "token_ppo", "rewards": rewards, "figures": dict(figures), **asdict(config)}
    if config.lora_rank:
        return export_adapter(
            model,
            load_policy(policy.model_directory),
            output,
            version=version,
            card=card,
            lineage=policy.version,
            decoding=policy.decoding,
            training=training,
        )
    return export_policy(
        model,
        policy.directory,
        output,
        version=version,
        text_format=policy.tokenizer.format,
        lineage=policy.version,
        decoding=policy.decoding,
        card=card,
        training=training,
    )
