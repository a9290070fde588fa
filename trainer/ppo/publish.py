"""Publishes what PPO trained: one adapter on the policy's base, or a whole model, with card and lineage.

It knows nothing about rewards or steps but what it is told.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from service.contract.policy import Policy
from trainer.export import export_trained
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
    return export_trained(model, policy, output, version=version, card=card, training=training)
