"""A window of the log becomes rows: labels, parts, sampling and weights are as documented, and damage is only counted."""

import stat
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctr.dataset import DataConfig, Dataset, build_dataset, is_kept, split_days
from ctr.features import tokenize
from service.contract.errors import ConfigurationError
from tests.ctr.small_log import Shown, small_log, snapshot_of

SUGGEST = DataConfig(task="suggest")


def lists_on(day: int, *, count: int = 4, **values: Any) -> list[Shown]:
    """`count` lists of two on one day, of which the first is clicked at position 1."""
    return [
        Shown(f"{day:02}-{number}", day, "rice", ("rice recipe", "tea"), (1,) if number == 0 else (), **values)
        for number in range(count)
    ]


def log_of(*extra: Shown) -> list[Shown]:
    return [shown for day in range(4) for shown in lists_on(day)] + list(extra)


def dataset(place: Path, log: list[Shown], tokenizer: Any, config: DataConfig = SUGGEST) -> Dataset:
    return build_dataset(snapshot_of(place / "snapshot", log), tokenizer, place / "data", config)


def texts_of(data: Dataset, part: str) -> list[tuple[str, str, int, int]]:
    rows = getattr(data, part)
    return [
        (rows.user_query(row), rows.query_text(row), int(rows.position[row]), int(rows.label[row]))
        for row in range(len(rows))
    ]


def test_a_list_of_n_queries_is_n_rows(tmp_path, tokenizer):
    data = dataset(tmp_path, log_of(), tokenizer)

    assert texts_of(data, "train") == [
        ("rice", "rice recipe", 1, 1), ("rice", "tea", 2, 0),
        *[("rice", "rice recipe", 1, 0), ("rice", "tea", 2, 0)] * 3,
    ]  # fmt: skip
    assert data.positions == 2


def test_each_query_of_a_list_is_stored_once(tmp_path, tokenizer):
    data = dataset(tmp_path, log_of(), tokenizer)

    expected = [ids for _ in range(4) for ids in tokenize(tokenizer, ["rice", "rice recipe", "tea"])]

    lists = data.train.lists
    assert lists.tokens.tolist() == [token for ids in expected for token in ids]
    assert lists.tokens.dtype == np.uint16
    assert np.diff(lists.starts).tolist() == [len(ids) for ids in expected]
    assert isinstance(lists.tokens, np.memmap)


def test_a_click_on_a_later_day_counts_for_the_day_of_the_list(tmp_path, tokenizer):
    late = Shown("late", 0, "rice", ("rice recipe", "tea"), (2,), click_days_later=3)

    data = dataset(tmp_path, log_of(late), tokenizer)

    assert ("rice", "tea", 2, 1) in texts_of(data, "train")


def test_where_nothing_was_typed_the_session_stands_in(tmp_path, tokenizer):
    untyped = Shown("untyped", 0, None, ("rice recipe",), session=("tea", "cake"))

    data = dataset(tmp_path, log_of(untyped), tokenizer)

    assert ("cake", "rice recipe", 1, 0) in texts_of(data, "train")


@pytest.mark.parametrize(
    "damage",
    [
        {"candidates": "[]"},
        {"candidates": '[{"text":null,"position":1}]'},
        {"candidates": '[{"text":"rice","position":2}]'},
        {"candidates": "{"},
        {"candidates": "null"},
        {"context": "[]"},
        {"context": '{"history":[{"source":"dream","text":"x"}]}'},
    ],
)
def test_an_erased_or_malformed_list_is_counted_and_left_out(tmp_path, tokenizer, damage):
    damaged = Shown("damaged", 0, "rice", ("rice recipe",), (1,), replaced=damage)

    data = dataset(tmp_path, log_of(damaged), tokenizer)

    assert data.skipped == {"unreadable": 1}
    assert len(data.train) == 8


def test_an_empty_list_and_another_task_are_not_rows(tmp_path, tokenizer):
    empty = Shown("empty", 0, "rice", ())
    other = Shown("other", 0, "rice", ("rice",), (1,), task="hint")

    data = dataset(tmp_path, log_of(empty, other), tokenizer)

    assert len(data.train) == 8
    assert data.skipped == {}


def test_all_tasks_together_are_rows_of_each(tmp_path, tokenizer):
    other = Shown("other", 0, "rice", ("cake",), (1,), task="hint")

    data = dataset(tmp_path, log_of(other), tokenizer, replace(SUGGEST, task="*"))

    assert set(data.train.tasks) == {"suggest", "hint"}
    assert len(data.train) == 9


def test_every_click_is_kept_and_rows_without_one_weigh_what_their_list_was_kept_at(tmp_path, tokenizer):
    log = small_log(4, 400)
    config = replace(SUGGEST, keep_share=0.3)

    data = dataset(tmp_path, log, tokenizer, config)

    days = [shown for shown in log if shown.day == 0]
    expected = [
        (1.0 if k in shown.clicked else 0.3 if shown.clicked else 1.0)
        for shown in days
        if shown.clicked or is_kept(shown.impression_id, 0.3)
        for k in (1, 2, 3)
    ]
    assert data.train.weight.tolist() == pytest.approx(expected)
    assert len(data.train) < 3 * 400 == len(data.test)
    assert set(data.test.weight.tolist()) == {1.0}


def test_importance_makes_up_for_what_sampling_left_out(tmp_path, tokenizer):
    log = small_log(4, 4_000)

    data = dataset(tmp_path, log, tokenizer, replace(SUGGEST, keep_share=0.2))

    clicks = sum(len(shown.clicked) for shown in log if shown.day == 0)
    weights = data.train.importance
    assert weights[data.train.label[:] == 1].sum() == clicks
    # A list without a click is kept with probability .2 and stands for 3 / .2 rows then: of about 2,000 such lists the
    # sum has a standard deviation of 3 * sqrt(2,000 * .8 / .2) = 270 rows.
    assert weights.sum() == pytest.approx(12_000, abs=4 * 270)


def test_a_person_with_many_lists_a_day_weighs_as_the_cap(tmp_path, tokenizer):
    busy = lists_on(0, count=10, user_id="ann")
    log = [replace(shown, impression_id=f"busy {shown.impression_id}") for shown in busy]

    data = dataset(tmp_path, log_of(*log), tokenizer, replace(SUGGEST, most_lists=5))

    assert data.train.weight.tolist() == [1.0] * 8 + [0.5] * 20


def test_days_are_split_by_time():
    days = [date(2026, 11, 1) + timedelta(days=number) for number in range(30)]

    parts = split_days(days, SUGGEST)

    # Of 30 days the last 7 test; of the 14 before them the last two calibrate, the one before validates.
    assert parts == {
        "train": days[9:20], "validation": days[20:21], "calibration": days[21:23], "test": days[23:],
    }  # fmt: skip


def test_four_days_are_enough_and_three_are_refused():
    days = [date(2026, 11, day) for day in range(1, 5)]

    assert [len(part) for part in split_days(days, SUGGEST).values()] == [1, 1, 1, 1]
    with pytest.raises(ConfigurationError, match="on 3 days, and at least 4"):
        split_days(days[:3], SUGGEST)


@pytest.mark.parametrize(
    ("log", "config", "reason"),
    [
        ([replace(shown, clicked=()) for shown in log_of()], SUGGEST, "no click of task 'suggest' in the days for train"),
        ([replace(shown, clicked=(1, 2)) for shown in log_of()], SUGGEST, "only clicks"),
        ([shown for shown in log_of() if shown.day != 1] + lists_on(4)[1:], SUGGEST, "no click of task"),
        (lists_on(0, count=1), SUGGEST, "on 1 days, and at least 4"),
        (log_of(), DataConfig(task="dream"), "no such task"),
        (log_of(), DataConfig(task="hint"), "on 0 days"),
        (log_of(), DataConfig(task="suggest", keep_share=0.0), "above 0 and at most 1"),
    ],
)  # fmt: skip
def test_what_cannot_teach_is_refused_and_leaves_nothing(tmp_path, tokenizer, log, config, reason):
    snapshot = snapshot_of(tmp_path / "snapshot", log)

    with pytest.raises(ConfigurationError, match=reason):
        build_dataset(snapshot, tokenizer, tmp_path / "data", config)

    assert [path.name for path in tmp_path.iterdir()] == ["snapshot"]


def test_only_the_owner_can_read_the_texts(tmp_path, tokenizer):
    dataset(tmp_path, log_of(), tokenizer)

    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700


def test_a_finished_dataset_is_taken_as_it_is(tmp_path, tokenizer):
    snapshot = snapshot_of(tmp_path / "snapshot", log_of())
    build_dataset(snapshot, tokenizer, tmp_path / "data", SUGGEST)
    before = (tmp_path / "data" / "dataset.json").stat().st_mtime_ns

    build_dataset(snapshot, tokenizer, tmp_path / "data", SUGGEST)

    assert (tmp_path / "data" / "dataset.json").stat().st_mtime_ns == before
