"""Measures predictions on the test days: overall, by slices of the log, and day by day (GQR eq. 9).

It knows nothing about how predictions were made; a simulation may hand in its true probabilities as one more method.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctr.dataset import Dataset
from ctr.metrics import Metrics, diff_ctr, measure
from ctr.rows import Rows

OURS = "nextquery"
_CUTS = (1 / 3, 2 / 3)

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What was measured on the test days.

    Attributes:
        days: K, how many days there were.
        rows_per_day: rows that were drawn from each for `diff_ctr`.
        methods: metrics of each method, ours first.
        diff_ctr: eq. 9 of each method; None where there is only one day, on which it is 0 for anybody.
        slices: metrics of ours by kind of slice and its value: position, task, arm, frequency.
    """

    days: int
    rows_per_day: int
    methods: dict[str, Metrics]
    diff_ctr: dict[str, float | None]
    slices: dict[str, dict[str, Metrics]]


def evaluate(data: Dataset, predictions: Mapping[str, Floats], *, seed: int = 0) -> Evaluation:
    """Measure each method's probabilities of the test rows, (R,); slices are those of the first method."""
    test = data.test
    ours = next(iter(predictions.values()))
    samples = _equal_samples(test, seed)
    return Evaluation(
        days=len(samples),
        rows_per_day=len(samples[0]),
        methods={name: _measure(test, p, np.arange(len(test))) for name, p in predictions.items()},
        diff_ctr={name: _diff_ctr(test, p, samples) for name, p in predictions.items()},
        slices={
            kind: {str(name): _measure(test, ours, np.flatnonzero(values == name)) for name in _in_order(values)}
            for kind, values in _slices(data).items()
        },
    )


def frequency_of(train: Rows, test: Rows) -> NDArray[Any]:
    """Head, torso or tail, for each test row: by how often its query was shown in training, (R,).

    Cut so that each has about a third of the rows shown; rows of one query are never parted, so parts may differ.
    """
    queries, number = np.unique(train.query, return_inverse=True)
    counts = np.bincount(number, train.importance)
    place = np.minimum(np.searchsorted(queries, test.query), len(queries) - 1)
    seen = np.where(queries[place] == test.query, counts[place], 0.0)
    low, high = np.quantile(seen, _CUTS, method="lower")
    return np.select([seen > high, seen > low], ["head", "torso"], "tail")


def _slices(data: Dataset) -> dict[str, NDArray[Any]]:
    test = data.test
    return {
        "position": np.asarray(test.position),
        "task": np.array(test.tasks)[test.list_task[test.row_list]],
        "arm": np.array(test.arms)[test.list_arm[test.row_list]],
        "frequency": frequency_of(data.train, test),
    }


def _in_order(values: NDArray[Any]) -> list[Any]:
    return [each for each in ("head", "torso", "tail") if each in values] or list(np.unique(values))


def _measure(rows: Rows, p: Floats, chosen: NDArray[np.int64]) -> Metrics:
    lists = rows.row_list[chosen]
    return measure(rows.label[chosen], p[chosen], rows.list_person[lists], lists)


def _equal_samples(rows: Rows, seed: int) -> list[NDArray[np.int64]]:
    """As many rows of each day as the poorest day has, drawn at random."""
    day = rows.list_day[rows.row_list]
    by_day = [np.flatnonzero(day == each) for each in np.unique(day)]
    least, random = min(map(len, by_day)), np.random.default_rng(seed)
    return [random.choice(chosen, least, replace=False) for chosen in by_day]


def _diff_ctr(rows: Rows, p: Floats, samples: list[NDArray[np.int64]]) -> float | None:
    if len(samples) < 2:
        return None
    return diff_ctr(
        [float(p[chosen].mean()) for chosen in samples], [float(rows.label[chosen].mean()) for chosen in samples]
    )
