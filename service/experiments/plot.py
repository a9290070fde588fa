"""Draws click-through by arm and day with bands, as GQR's Figure 7 does.

It knows nothing about how a report came about.
"""

from datetime import date
from pathlib import Path
from typing import IO

import numpy as np

from service.experiments.report import Report


def plot_days(report: Report, target: Path | IO[bytes]) -> None:
    """CTR of each arm by day, its 95 % interval as a band, as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.dates import ConciseDateFormatter, DayLocator
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for number, arm in enumerate(report.arms):
        known = {date.fromisoformat(day): rate for day, rate in arm.by_day.items() if rate.value is not None}
        days = np.array(list(known), dtype="datetime64[D]")
        value, low, high = np.array([[r.value, r.low, r.high] for r in known.values()], dtype=float).reshape(-1, 3).T
        axes.plot(days, value, color=f"C{number}", marker="o", markersize=3.5, label=arm.name)
        axes.fill_between(days, low, high, color=f"C{number}", alpha=0.15, linewidth=0)
    every = max(1, round(len(report.days) / 8))
    locator = DayLocator(interval=every)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axes.set_ylabel("clicked lists / lists")
    axes.set_title(f"{report.experiment.id}: CTR by arm and day, with 95 % intervals", loc="left", fontsize=11)
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e8e8e8", linewidth=0.6)
    axes.set_axisbelow(True)
    if report.arms:
        axes.legend(frameon=False, loc="lower right")
    if report.problem:
        axes.text(0.5, 0.5, "The sample ratio is wrong: no results.", ha="center", transform=axes.transAxes)
    figure.savefig(target, dpi=130, format="png")
