"""Draws the figures of a run over its steps.

It knows nothing about models.
"""

import json
from pathlib import Path

_PLOTS = {
    "loss": ("loss", ("loss",)),
    "margins": ("reward", ("rewards/margins", "rewards/chosen", "rewards/rejected")),
    "logps": ("log-probability of a list (nats)", ("logps/chosen", "logps/rejected")),
    "kl": ("KL to the SFT base (nats a token)", ("kl",)),
}


def plot(metrics: Path, directory: Path) -> list[Path]:
    """Draw `loss.png`, `margins.png`, `logps.png` and `kl.png` where `metrics` has the figures; returns what it drew."""
    points = [json.loads(line) for line in metrics.read_text().splitlines()]
    drawn = []
    for name, (unit, keys) in _PLOTS.items():
        lines = {key: [(point["step"], point[key]) for point in points if key in point] for key in keys}
        if any(lines.values()):
            _draw(lines, unit, directory / f"{name}.png")
            drawn.append(directory / f"{name}.png")
    return drawn


def _draw(lines: dict[str, list[tuple[int, float]]], unit: str, picture: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, points in lines.items():
        axes.plot([step for step, _ in points], [value for _, value in points], linewidth=1.5, label=name)
    axes.set(xlabel="step", ylabel=unit)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(picture, dpi=120)
