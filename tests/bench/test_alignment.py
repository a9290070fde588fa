"""What follows from the cells of the alignment table, and when a stored row counts."""

from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from service.contract.snapshot import Snapshot
from tests.bench import alignment, alignment_rows
from tests.bench.alignment_cell import of_days

CELL = {
    "sft": 0.2,
    "iter_dpo": 0.5,
    "oracle": 0.6,
    "cor_only": 0.05,
    "true_ctr_lift": 1.5,
    "judged_lift": 1.2,
    "true_ctr_lift_second_worst": 0.4,
    "duplicate_share": 0.001,
    "length_ratio": 1.05,
    "rounds": 2.0,
}
FACTS = {"task": "suggest", "seed": 0}
OF = ("tests/bench/report.py",)


@pytest.fixture
def rows(tmp_path, monkeypatch):
    monkeypatch.setattr(alignment_rows, "ROWS", tmp_path)
    monkeypatch.setattr(alignment_rows, "version_of", lambda of: "c0de")
    return tmp_path


def test_the_gap_and_the_ratio_follow_from_what_a_cell_measured():
    found = alignment._figures(CELL, "_suggest", "")

    assert found["gap_closed_suggest"] == pytest.approx(0.75)  # (.5 - .2) / (.6 - .2)
    assert found["realised_over_predicted"] == pytest.approx(1.25)  # 1.5 / 1.2
    assert found["realised_over_predicted_low_margin"] == found["realised_over_predicted"]
    assert found["sft_over_cor_suggest"] == pytest.approx(0.15)


def test_every_bar_of_the_short_form_but_the_costs_gets_a_figure():
    names = {bar.name for bar in alignment._named("suggest", "_suggest", "")}

    assert names == set(alignment._figures(CELL, "_suggest", ""))


def test_no_two_bars_have_one_name():
    names = [bar.name for bar in alignment._bars()]

    assert len(names) == len(set(names))
    assert "gap_closed_hint" in names
    assert "cor_only_snippets" not in names


def test_the_mean_over_seeds_keeps_the_worst_of_the_second_audiences():
    other = {**CELL, "iter_dpo": 0.3, "true_ctr_lift_second_worst": -0.1}

    mean = alignment._mean([CELL, other])

    assert mean["iter_dpo"] == pytest.approx(0.4)
    assert mean["true_ctr_lift_second_worst"] == -0.1


def test_a_row_is_measured_once(rows):
    measured = []

    for _ in range(2):
        alignment_rows.row("suggest-0", FACTS, OF, lambda: measured.append(1) or CELL)

    assert len(measured) == 1
    assert alignment_rows.fresh("suggest-0", FACTS, OF) == CELL


def test_a_row_of_other_code_data_or_seed_does_not_count(rows, monkeypatch):
    alignment_rows.row("suggest-0", FACTS, OF, lambda: CELL)

    assert alignment_rows.fresh("suggest-0", {**FACTS, "seed": 1}, OF) is None
    monkeypatch.setattr(alignment_rows, "version_of", lambda of: "0ther")
    assert alignment_rows.fresh("suggest-0", FACTS, OF) is None


def test_a_row_of_code_that_is_not_committed_is_not_stored(rows, monkeypatch):
    monkeypatch.setattr(alignment_rows, "version_of", lambda of: "c0de+")

    with pytest.raises(SystemExit, match="commit"):
        alignment_rows.row("suggest-0", FACTS, OF, lambda: CELL)


def test_a_log_of_some_days_has_their_files_only():
    files = {f"{table}/2026-10-0{day}.parquet": "sha" for table in ("impressions", "clicks") for day in (1, 2, 3)}
    counts = {table: {f"2026-10-0{day}": 5 for day in (1, 2, 3)} for table in ("impressions", "clicks")}
    manifest = {"counts": counts, "files": {**files, "columns.json": "sha"}}
    since, until = (datetime(2026, 10, day, tzinfo=UTC) for day in (1, 4))
    whole = Snapshot(directory=Path("log"), since=since, until=until, tenant="default", manifest=manifest)

    some = of_days(whole, {date(2026, 10, 1), date(2026, 10, 3)})

    assert list(some.files("impressions")) == [date(2026, 10, 1), date(2026, 10, 3)]
    assert some.rows("clicks") == 10
    assert sorted(some.manifest["files"]) == [
        "clicks/2026-10-01.parquet",
        "clicks/2026-10-03.parquet",
        "columns.json",
        "impressions/2026-10-01.parquet",
        "impressions/2026-10-03.parquet",
    ]
    assert len(whole.files("impressions")) == 3
