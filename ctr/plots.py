"""Draws the reliability diagram and the ROC curve of each method, as PNG.

It knows nothing about models; labels and probabilities are handed in.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctr.metrics import auc, reliability

_INCHES = (5.6, 5.2)
_DPI = 130
_GREY = "#9a9a9a"


def plot_reliability(labels: NDArray[Any], predictions: Mapping[str, NDArray[np.float64]], path: Path) -> None:
    """Real click rate against mean probability in 15 bins of equal mass; on the diagonal is calibrated."""
    figure, axes = _axes("mean predicted probability", "real click rate", "Reliability on the test days")
    most = 0.0
    for number, (name, p) in enumerate(predictions.items()):
        bins = reliability(labels, p)
        axes.plot(*zip(*[bin_[:2] for bin_ in bins], strict=True), label=name, **_style(number, marker=True))
        most = max(most, *(value for bin_ in bins for value in bin_[:2]))
    axes.plot([0, 1], [0, 1], color=_GREY, linestyle=":", linewidth=1, zorder=0)
    axes.set(xlim=(0, 1.05 * most), ylim=(0, 1.05 * most))
    axes.legend(frameon=False, loc="upper left")
    _save(figure, path)


def plot_roc(labels: NDArray[Any], predictions: Mapping[str, NDArray[np.float64]], path: Path) -> None:
    """Share of clicks found against share of other rows taken along; the legend has the area."""
    from sklearn.metrics import roc_curve

    figure, axes = _axes("false positive rate", "true positive rate", "ROC on the test days")
    for number, (name, p) in enumerate(predictions.items()):
        false, true, _ = roc_curve(labels, p)
        axes.plot(false, true, label=f"{name}  {auc(labels, p):.3f}", **_style(number, marker=False))
    axes.plot([0, 1], [0, 1], color=_GREY, linestyle=":", linewidth=1, zorder=0)
    axes.set(xlim=(0, 1), ylim=(0, 1.005))
    axes.legend(frameon=False, loc="lower right", title="AUC")
    _save(figure, path)


def _axes(x: str, y: str, title: str) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=_INCHES, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_aspect("equal")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e8e8e8", linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def _style(number: int, *, marker: bool) -> dict[str, Any]:
    """Ours, the first, is bold; the others are thin."""
    dots = {"marker": "o", "markersize": 4.5 if number == 0 else 3} if marker else {}
    return {"color": f"C{number}", "linewidth": 2.0 if number == 0 else 1.0, "zorder": 10 - number, **dots}


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=_DPI)
