"""Draws what the runs of the benchmark went through: TPPO's Figures 5, 6, 11 and 12 on our own people.

It knows nothing about figures or bars.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.bench.tppo_run import Work, steps_of
from trainer.methods.plots import draw_lines

_SMOOTH = 10  # steps that a point of a noisy curve is the mean of


def draw_run(work: Work) -> None:
    """`relevance.png` (Figure 5) and `auc.png` (Figure 6) of a run with both methods."""
    methods = ("tppo", "ppo")
    draw_lines(
        {name: _smoothed(steps_of(work, name), "relevance") for name in methods},
        "share of relevant responses (second judge)",
        _picture(work, "relevance"),
    )
    draw_lines(
        {f"{level} level": _measured(work, level, "sentence_auc") for level in ("token", "sentence")},
        "AUC of whole responses, rows held out",
        _picture(work, "auc"),
        marker="o",
    )


def draw_ablations(work: Work, runs: Mapping[str, str]) -> None:
    """`length.png` (Figure 12), `relevance.png` and `loss.png` (Figure 11) of the runs that are there, by their names in it."""
    there = {told: name for told, name in runs.items() if (work.place / f"{name}.json").is_file()}
    for key, unit in (("length", "tokens of a response"), ("relevance", "share of relevant responses (second judge)")):
        draw_lines(
            {told: _smoothed(steps_of(work, name), key) for told, name in there.items()}, unit, _picture(work, key)
        )

    losses = {told: name for told, name in there.items() if (work.place / f"reward-{name}-work").is_dir()}
    if losses:
        curves = {told: _measured(work, name, "loss") for told, name in losses.items()}
        draw_lines(curves, "loss of the reward model", _picture(work, "loss"))


def _smoothed(steps: list[dict[str, float]], key: str) -> list[tuple[float, float]]:
    values = [step[key] for step in steps]
    return [
        (steps[at]["step"], sum(values[max(0, at - _SMOOTH + 1) : at + 1]) / min(at + 1, _SMOOTH))
        for at in range(len(values))
    ]


def _measured(work: Work, name: str, key: str) -> list[tuple[float, float]]:
    lines = (work.place / f"reward-{name}-work" / "metrics.jsonl").read_text().splitlines()
    return [(point["step"], point[key]) for point in map(json.loads, lines) if key in point]


def _picture(work: Work, name: str) -> Path:
    file = work.place / "curves" / f"{name}.png"
    file.parent.mkdir(exist_ok=True)
    print(f"  drawn: {file}", file=sys.stderr)
    return file
