"""Intervals of the benchmarks hold what they claim; a figure that was not measured never holds."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from tests.bench import report
from tests.bench.intervals import auc_interval, bootstrap
from tests.bench.report import Bar, Cell


def test_the_interval_holds_the_auc_and_is_narrower_with_more_rows() -> None:
    random = np.random.default_rng(0)
    widths = []
    for rows in (500, 8000):
        labels = random.integers(2, size=rows)
        scores = np.round(labels + random.normal(0, 1.5, rows), 1)  # rounded, so that there are ties
        low, high = auc_interval(labels, scores, np.arange(rows))
        assert low < roc_auc_score(labels, scores) < high
        widths.append(high - low)

    assert widths[1] == pytest.approx(widths[0] / 4, rel=0.3)  # 16 times the rows: a quarter of the width


def test_rows_of_one_group_count_as_one_unit() -> None:
    random = np.random.default_rng(1)
    labels, scores = random.integers(2, size=200), random.normal(size=200)
    alone = auc_interval(labels, scores, np.arange(200))

    tenfold = auc_interval(np.repeat(labels, 10), np.repeat(scores, 10), np.repeat(np.arange(200), 10))

    assert tenfold[1] - tenfold[0] == pytest.approx(alone[1] - alone[0], rel=0.15)


def test_the_bootstrap_of_a_mean_has_its_standard_error() -> None:
    values = np.random.default_rng(2).normal(size=400)

    low, high = bootstrap(lambda weights: float(np.average(values, weights=weights)), 400)

    assert (high - low) / 2 == pytest.approx(1.96 / 400**0.5, rel=0.2)


def test_a_figure_that_was_not_measured_has_no_value_and_does_not_hold() -> None:
    assert Bar("a", "share", ">=", 0.5).judge(None) == {
        "name": "a", "value": None, "unit": "share", "bar": ">= 0.5", "holds": False,
    }  # fmt: skip
    assert Bar("a", "share").judge(None)["holds"] is None


def test_a_cell_that_takes_longer_than_is_left_is_not_begun(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = []

    def cell(name: str, about_s: float) -> Cell:
        return Cell(name, lambda: begun.append(name) or {name: 1.0}, about_s=about_s)  # type: ignore[func-returns-value]

    monkeypatch.setattr(report, "_CELLS", tmp_path)
    monkeypatch.setattr("sys.argv", ["bench", "--json"])

    code = report.main(
        "bench", [Bar("quick", "", ">", 0), Bar("long", "", ">", 0)], [cell("quick", 1), cell("long", 99)], within_s=10
    )

    assert begun == ["quick"]
    assert code == 1
    assert "--full measures it" in capsys.readouterr().err
