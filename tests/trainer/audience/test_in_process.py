"""A simulated log is a snapshot like any other, with the truth beside it."""

import json
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import pyarrow.parquet as pq
import pytest

from service.contract.snapshot import open_snapshot
from service.contract.types import ServedBy
from trainer.audience.audience import Audience
from trainer.audience.in_process import LogConfig, simulate_log
from trainer.audience.listers import at_random
from trainer.audience.scenes import draw_scene
from trainer.audience.visit import Visit

SINCE = datetime(2026, 10, 1, tzinfo=UTC)
AUDIENCE = Audience()


def config(**changes: object) -> LogConfig:
    return LogConfig(**{"task": "suggest", "impressions": 300, "since": SINCE, "days": 3, **changes})  # type: ignore[arg-type]


async def test_the_log_is_a_snapshot_with_as_many_impressions_each_day_as_asked_for(tmp_path: Path) -> None:
    await simulate_log(at_random(AUDIENCE), AUDIENCE, config(), tmp_path / "log")

    snapshot = open_snapshot(tmp_path / "log")
    assert (snapshot.since, (snapshot.until - snapshot.since).days) == (SINCE, 3)
    assert snapshot.manifest["counts"]["impressions"] == {f"2026-10-0{day}": 100 for day in (1, 2, 3)}
    for day, path in snapshot.files("impressions").items():
        rows = pq.read_table(path).to_pylist()
        assert {row["at"].date() for row in rows} == {day}
        assert all(row["n_shown"] == len(json.loads(row["candidates"])) for row in rows)
        assert {row["served_by"] for row in rows} == {ServedBy.MODEL.value}


async def test_the_truth_has_each_query_shown_and_clicks_follow_it(tmp_path: Path) -> None:
    truth_path = await simulate_log(
        at_random(AUDIENCE), AUDIENCE, config(impressions=3000, expected_days=3, people_a_list=4), tmp_path / "log"
    )

    truth = {(row["impression_id"], row["position"]): row for row in pq.read_table(truth_path).to_pylist()}
    snapshot = open_snapshot(tmp_path / "log")
    shown = [row for path in snapshot.files("impressions").values() for row in pq.read_table(path).to_pylist()]
    clicked = [row for path in snapshot.files("clicks").values() for row in pq.read_table(path).to_pylist()]
    assert set(truth) == {(row["impression_id"], k) for row in shown for k in range(1, row["n_shown"] + 1)}
    assert all((row["impression_id"], row["position"]) in truth for row in clicked)
    p = [row["p_click"] for row in truth.values()]
    standard_error = sum(each * (1 - each) for each in p) ** 0.5
    assert abs(len(clicked) - sum(p)) < 4 * standard_error
    # the mean over people of one list, of which the person who came is one
    assert sum(row["expected"] for row in truth.values()) == pytest.approx(sum(p), rel=0.1)


async def test_the_same_seed_gives_the_same_log_and_another_seed_another(tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        await simulate_log(at_random(AUDIENCE), AUDIENCE, config(seed=seed), tmp_path / name)

    files = {name: open_snapshot(tmp_path / name).manifest["files"] for name in ("one", "again", "other")}
    assert files["one"] == files["again"]
    assert files["one"] != files["other"]


@pytest.mark.parametrize("task", ["suggest", "snippets", "hint", "clarify", "predict"])
def test_a_visit_ends_and_never_offers_what_was_not_asked(task: str) -> None:
    for number in range(60):
        rng = Random(number)
        visit, lists = Visit(AUDIENCE, rng, draw_scene(task, AUDIENCE.world, rng)), 0
        while (scene := visit.scene) is not None:
            assert scene.task == task
            reaction = visit.see(["best way to do it", "what it costs"], {})
            assert set(reaction.clicked) <= {1, 2}
            lists += 1
        assert 1 <= lists <= 4


def test_who_left_sees_nothing_more() -> None:
    rng = Random(0)
    visit = Visit(AUDIENCE, rng, draw_scene("clarify", AUDIENCE.world, rng))
    visit.see([], {})

    with pytest.raises(ValueError, match="This visit is over"):
        visit.see([], {})


def test_who_is_shown_nothing_types_the_need() -> None:
    rng = Random(1)
    visit = Visit(AUDIENCE, rng, draw_scene("clarify", AUDIENCE.world, rng))

    reaction = visit.see([], {})

    assert reaction.clicked == ()
    assert reaction.typed
