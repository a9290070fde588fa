"""Draws the figures of a run over its steps.

It knows nothing about models.
"""

import json
from collections.abc import Mapping
from pathlib import Path

Plots = Mapping[str, tuple[str, tuple[str, ...]]]
"""By the name of a picture: what its axis is called, and the figures that it shows."""

_PLOTS: Plots = {
    "loss": ("loss", ("loss",)),
    "margins": ("reward", ("rewards/margins", "rewards/chosen", "rewards/rejected")),
    "logps": ("log-probability of a list (nats)", ("logps/chosen", "logps/rejected")),
    "kl": ("KL to the SFT base (nats a token)", ("kl",)),
}


def plot(metrics: Path, directory: Path, plots: Plots = _PLOTS) -> list[Path]:
    """Draw a picture for each of `plots`, such as `loss.png`, where `metrics` has the figures; returns what it drew."""
    points = [json.loads(line) for line in metrics.read_text().splitlines()]
    drawn = []
    for name, (unit, keys) in plots.items():
        lines = {key: [(point["step"], point[key]) for point in points if key in point] for key in keys}
        if any(lines.values()):
            draw_lines(lines, unit, directory / f"{name}.png")
            drawn.append(directory / f"{name}.png")
    return drawn


def draw_lines(
    lines: Mapping[str, list[tuple[float, float]]], unit: str, picture: Path, *, x: str = "step", marker: str = ""
) -> None:
    """Draw lines of points by their names; `marker` as in matplotlib shows the points."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, points in lines.items():
        axes.plot(
            [step for step, _ in points], [value for _, value in points], linewidth=1.5, label=name, marker=marker
        )
    axes.set(xlabel=x, ylabel=unit)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(picture, dpi=120)
