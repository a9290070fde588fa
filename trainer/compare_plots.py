"""Draws a comparison: what the judge predictor expects of each row, and how often its lists win (GQR Table 3, Figure 5).

It knows nothing about how rows are made.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainer.compare import BASELINE, Row
from trainer.rounds import JUDGES

_COLOURS = {"baseline": "#9aa0a6", "clk": "#e8a33d", "ctr": "#2f6f9f"}
_OUTCOMES = (("wins", "#2f8f5b"), ("ties", "#d9d9d9"), ("losses", "#c0504d"))
_SIDES = ("relatedness", "exclusivity")


def plot(rows: Sequence[Row], directory: Path) -> list[Path]:
    """Draw `aec.png`, and `quality-<judge>.png` for each judge that was asked; returns what it drew."""
    made = [row for row in rows if row.assessment]
    judges = sorted({judge for row in made for judge in row.quality})
    drawn = [_aec(made, directory / "aec.png")] if made else []
    return drawn + [_quality(made, judge, directory / f"quality-{judge}.png") for judge in judges]


def _aec(rows: Sequence[Row], picture: Path) -> Path:
    figure, axes = _figure(len(rows), 1)
    values = [row.assessment.aec[JUDGES] if row.assessment else 0.0 for row in rows]
    bars = axes[0].barh([row.name for row in rows], values, color=[_COLOURS[row.category] for row in rows])
    axes[0].bar_label(bars, fmt="%.3f", padding=3)
    axes[0].set(xlabel="AEC by the judge predictor", xlim=(0, 1.15 * max(values)))
    return _save(figure, axes, picture)


def _quality(rows: Sequence[Row], judge: str, picture: Path) -> Path:
    judged = [row for row in rows if judge in row.quality]
    figure, axes = _figure(len(judged), len(_SIDES))
    for axis, side in zip(axes, _SIDES, strict=True):
        left = [0.0] * len(judged)
        for outcome, colour in _OUTCOMES:
            shares = [_share(row.quality[judge], side, outcome) for row in judged]
            bars = axis.barh([row.name for row in judged], shares, left=left, color=colour, label=outcome)
            axis.bar_label(bars, labels=[f"{share:.0f}" if share >= 4 else "" for share in shares], label_type="center")
            left = [before + share for before, share in zip(left, shares, strict=True)]
        axis.set(xlabel=f"{side} against {BASELINE} (% of the prompts judged)", xlim=(0, 100))
    axes[0].legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)
    return _save(figure, axes, picture)


def _share(figures: Any, side: str, outcome: str) -> float:
    """Percent of what was judged."""
    judged = sum(figures[f"{side}_{each}"] for each, _ in _OUTCOMES)
    return float(100.0 * figures[f"{side}_{outcome}"] / judged) if judged else 0.0


def _figure(rows: int, columns: int) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6 * columns, 1.2 + 0.36 * rows), layout="constrained")
    return figure, list(figure.subplots(1, columns, squeeze=False, sharey=True)[0])


def _save(figure: Any, axes: Sequence[Any], picture: Path) -> Path:
    axes[0].invert_yaxis()  # the first row on top
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(picture, dpi=120)
    return picture
