"""A night runs each stage once, promotes what passed its gates, keeps the champion else, and goes on where it was."""

import asyncio
import json
import math
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from service.contract import job_records, registry
from service.contract.errors import JobBusy, JobError, RegistryConflict
from service.contract.fence import take_number
from service.contract.job_records import RunRecord
from tests.trainer.jobs.night import Night, in_process
from tests.trainer.jobs.stub_nextquery import PREDICTOR, made
from trainer.jobs.lock import hold_lock
from trainer.jobs.nightly import JOB, ORDER, run_nightly

WHOLE = [
    "snapshot",
    "retrieval build",
    "ctr train",
    "ctr train",
    "train align",
    "ctr evaluate",
    "train evaluate",
    "train evaluate",
    "experiments decide",
    "retrieval publish",
    "ctr publish",
    "models promote",
]


async def run(engine: AsyncEngine, night: Night, alone: str | None = None, **jobs: Any) -> RunRecord:
    found, _ = await run_nightly(engine, night.settings(**jobs), night.window, alone=alone, start=in_process)
    return found


async def serving(engine: AsyncEngine) -> dict[str, str]:
    return {f"{c.kind} {c.task}": c.version for c in await registry.list_champions(engine)}


async def champion(engine: AsyncEngine, kind: str, task: str, place: Path, figures: dict[str, Any]) -> None:
    made(place, kind, figures)
    model = await registry.register(engine, version=place.name, kind=kind, task=task, directory=place, metrics=figures)
    await registry.put_in_front(engine, model)


async def test_a_night_runs_each_stage_in_order_and_promotes_what_passed(engine: AsyncEngine, night: Night) -> None:
    done = await run(engine, night)

    assert (done.state, done.reason, done.attempts) == ("done", None, 1)
    assert [stage.stage for stage in done.stages] == list(ORDER)
    assert night.calls() == WHOLE
    now = await serving(engine)
    assert set(now) == {"cor *", "ctr suggest", "policy *", "policy suggest"}
    assert now["policy suggest"].startswith("dpo-suggest-20261113-")
    assert now["policy *"].startswith("starter")


async def test_the_record_has_inputs_versions_figures_plots_durations_and_memory(
    engine: AsyncEngine, night: Night
) -> None:
    done = await run(engine, night, align="none")

    trained = next(stage for stage in done.stages if stage.stage == "ctr-train")
    assert set(trained.parts) == {"suggest-search", "suggest-judge"}
    assert trained.figures["suggest search auc"] == PREDICTOR["auc"]
    assert trained.seconds > 0
    assert trained.peak_rss_mb > 5
    assert trained.exit_code == 0
    assert len(trained.plots) == 2
    assert all((night.data / path).is_file() for path in trained.plots)
    assert all(len(part["sha256"]) == 64 for part in trained.parts.values())
    assert done.inputs["jobs"]["align"] == "none"
    assert "nextquery" in done.inputs["versions"]


async def test_the_predictors_that_search_and_judge_share_neither_day_nor_seed(
    engine: AsyncEngine, night: Night
) -> None:
    await run(engine, night, align="none")

    search, judge = ([*call["words"]] for call in night.raw_calls() if call["command"] == "ctr train")
    option = [dict(pairwise(words)) for words in (search, judge)]
    # 12 days in all: 0-7 learn for the search, 8-10 for the judge, and both are met on day 11
    assert [(each["--days"], each["--test-days"]) for each in option] == [("8", "4"), ("3", "1")]
    assert option[0]["--seed"] != option[1]["--seed"]


async def test_a_finished_window_is_not_run_again(engine: AsyncEngine, night: Night) -> None:
    first, was_done = await run_nightly(engine, night.settings(align="none"), night.window, start=in_process)
    calls = night.calls()

    again, was_done_again = await run_nightly(engine, night.settings(align="none"), night.window, start=in_process)

    assert (was_done, was_done_again) == (True, False)
    assert again == first
    assert night.calls() == calls


async def test_stages_can_be_run_one_by_one_and_make_the_same_night(engine: AsyncEngine, night: Night) -> None:
    with pytest.raises(JobError, match="stands on snapshot"):
        await run(engine, night, "ctr-train", align="none")
    states = [(await run(engine, night, name, align="none")).state for name in ORDER]

    assert states == ["waiting"] * 5 + ["done"]
    assert night.calls() == [call for call in WHOLE if "align" not in call and "train eval" not in call][:-1]
    assert "ctr suggest" in await serving(engine)


@pytest.mark.parametrize(
    ("plan", "reason"),
    [
        ({"ctr_train": {"figures": {"auc": 0.65}}}, "its AUC is 0.6500, and the champion's is 0.7000"),
        ({"ctr_train": {"figures": {"auc": math.nan}}}, "its auc is nan"),
        ({"ctr_train": {"figures": {"auc": 0.5}}}, "no better than chance"),
        ({"ctr_train": {"figures": {"pcoc": 3.0}}}, "its PCOC is 3.000"),
        ({"ctr_train": {"figures": {"ece": 0.2}}}, "its ECE is 0.2000"),
    ],
    ids=["worse", "nan", "constant", "pcoc", "ece"],
)
async def test_a_predictor_that_is_no_better_stays_out_and_the_reason_is_stored(
    engine: AsyncEngine, night: Night, plan: dict[str, Any], reason: str
) -> None:
    await champion(engine, "ctr", "suggest", night.data / "ctr" / "ctr-old", PREDICTOR)
    night.plan(**plan)

    kept = await run(engine, night, align="none")

    assert kept.state == "kept"
    assert reason in str(kept.reason)
    assert (await serving(engine))["ctr suggest"] == "ctr-old"
    assert (await serving(engine))["cor *"].startswith("cor-")  # what passed is promoted all the same


@pytest.mark.parametrize(("figure", "value"), [("coverage", 0.5), ("hit10", 0.1), ("hit10", None)])
async def test_a_build_that_finds_less_stays_out(
    engine: AsyncEngine, night: Night, figure: str, value: float | None
) -> None:
    await champion(engine, "cor", "*", night.data / "cor" / "cor-old", {"coverage": 0.9, "hit10": 0.3})
    night.plan(retrieval_build={"figures": {figure: value}})

    kept = await run(engine, night, align="none")

    assert kept.state == "kept"
    assert f"its {figure} is" in str(kept.reason)
    assert (await serving(engine))["cor *"] == "cor-old"


@pytest.mark.parametrize(
    ("figures", "served", "reason"),
    [
        ({"aec_judge": 0.1}, {}, "not above 0.1000"),
        ({"parse_failures": 0.3}, {}, "cannot be read is 0.3000"),
        ({"duplicate_share": 0.2}, {}, "repeated queries is 0.2000"),
        ({"length_ratio": 1.5}, {}, "1.500 times the length"),
        ({}, {"parse_ok_share": 0.5}, "share of readable lists is 0.5000"),
        ({}, {"latency_p95_ms": 400.0}, "take 400 ms"),
    ],
)
async def test_a_policy_that_is_no_better_stays_out(
    engine: AsyncEngine, night: Night, figures: dict[str, float], served: dict[str, float], reason: str
) -> None:
    night.plan(train_align={"figures": figures, "served": served})

    kept = await run(engine, night)

    assert kept.state == "kept"
    assert reason in str(kept.reason)
    assert "policy suggest" not in await serving(engine)


async def test_a_useless_predictor_aligns_nothing(engine: AsyncEngine, night: Night) -> None:
    night.plan(ctr_train={"figures": {"auc": 0.5}})

    kept = await run(engine, night)

    assert "train align" not in night.calls()
    assert next(stage for stage in kept.stages if stage.stage == "align").state == "skipped"


async def test_an_empty_day_stops_the_night_and_nothing_is_published(engine: AsyncEngine, night: Night) -> None:
    night.plan(snapshot={"empty": ["2026-11-05"]})

    with pytest.raises(JobError, match=r"No list was shown on 1 of 12 days \(2026-11-05\)"):
        await run(engine, night, align="none")

    [record] = await job_records.list_runs(engine)
    assert record.state == "failed"
    assert "2026-11-05" in str(record.reason)
    assert night.calls() == ["snapshot"]
    assert await serving(engine) == {}


async def test_a_stage_that_fails_stops_the_night_with_its_sentence_and_the_next_run_goes_on_there(
    engine: AsyncEngine, night: Night
) -> None:
    night.plan(train_align={"exit": 2, "say": "No pair survived the filters."})
    with pytest.raises(JobError, match=r"`nextquery train align` of stage align .* No pair survived the filters\."):
        await run(engine, night)
    [failed] = await job_records.list_runs(engine)
    published_then = await serving(engine)
    night.plan()

    done = await run(engine, night)

    assert failed.state == "failed"
    assert set(published_then) == {"policy *"}
    assert (done.run_id, done.state, done.attempts) == (failed.run_id, "done", 2)
    assert night.calls() == [*WHOLE[:5], *WHOLE[4:]]


async def test_a_part_that_was_finished_is_not_run_again_when_the_next_part_failed(
    engine: AsyncEngine, night: Night
) -> None:
    night.plan(models_promote={"exit": 1, "say": "The disk is full."})
    with pytest.raises(JobError):
        await run(engine, night)
    night.plan()

    done = await run(engine, night)

    assert done.state == "done"
    assert night.calls() == [*WHOLE, "models promote"]


async def test_what_was_made_and_is_gone_or_altered_is_made_again_with_all_that_stands_on_it(
    engine: AsyncEngine, night: Night
) -> None:
    for name in ORDER[:3]:
        await run(engine, night, name, align="none")
    [listed] = await job_records.list_runs(engine)
    trained = (await job_records.show_run(engine, listed.run_id)).stages[2]
    os.rename(trained.parts["suggest-search"]["output"]["directory"], night.place / "away")

    done = await run(engine, night, align="none")

    assert done.state == "done"
    assert night.calls().count("snapshot") == 1
    assert night.calls().count("retrieval build") == 1
    assert night.calls().count("ctr train") == 3


async def test_changed_settings_run_a_stage_again_that_had_finished(engine: AsyncEngine, night: Night) -> None:
    await run(engine, night, "snapshot", align="none")
    await run(engine, night, "retrieval-build", align="none")

    await run(engine, night, align="none", options={"retrieval-build": ["--k", "3"]})

    builds = [call["words"] for call in night.raw_calls() if call["command"] == "retrieval build"]
    assert [words[-2:] == ["--k", "3"] for words in builds] == [False, True]


async def test_a_policy_can_be_aligned_by_token_level_ppo(engine: AsyncEngine, night: Night) -> None:
    done = await run(engine, night, align="token_ppo", options={"ppo": ["--steps", "3"]})

    [words] = [call["words"] for call in night.raw_calls() if call["command"] == "train ppo"]
    option = dict(pairwise(words))
    assert done.state == "done"
    assert (option["--task"], option["--reward"], option["--steps"]) == ("suggest", "ctr", "3")
    assert option["--predictor"] != option["--judge-predictor"]
    assert (await serving(engine))["policy suggest"].startswith("ppo-suggest-20261113-")


@pytest.mark.parametrize(("better", "taken"), [("train align", "dpo"), ("train ppo", "ppo")])
async def test_of_both_methods_the_one_that_the_judge_expects_more_of_is_taken(
    engine: AsyncEngine, night: Night, better: str, taken: str
) -> None:
    night.plan(**{better.replace(" ", "_"): {"figures": {"aec_judge": 0.3}}})

    await run(engine, night, align="both")

    assert {"train align", "train ppo"} < set(night.calls())
    assert (await serving(engine))["policy suggest"].startswith(f"{taken}-suggest-20261113-")


async def test_of_two_at_once_one_is_busy(engine: AsyncEngine, night: Night) -> None:
    async with hold_lock(engine, JOB):
        with pytest.raises(JobBusy, match="under way"):
            await run(engine, night)

    assert (await run(engine, night, "snapshot")).state == "waiting"


async def test_a_stale_holder_can_neither_publish_nor_write(engine: AsyncEngine, night: Night) -> None:
    held = night.hold("ctr publish")
    running = asyncio.create_task(run(engine, night, align="none"))
    await asyncio.to_thread(night.wait_for, "ctr publish")

    await take_number(engine, JOB)  # as the next holder does
    held.unlink()

    with pytest.raises(RegistryConflict, match="lost its lock"):
        await running
    assert "ctr suggest" not in await serving(engine)
    [left] = await job_records.list_runs(engine)
    assert left.state == "running"  # it is the next holder's to change


async def test_a_champion_that_somebody_else_promoted_meanwhile_stays(engine: AsyncEngine, night: Night) -> None:
    held = night.hold("retrieval publish")
    running = asyncio.create_task(run(engine, night, align="none"))
    await asyncio.to_thread(night.wait_for, "retrieval publish")
    await champion(engine, "cor", "*", night.data / "cor" / "cor-by-hand", {"coverage": 0.9, "hit10": 0.3})
    held.unlink()
    with pytest.raises(JobError, match="somebody else changed it"):
        await running

    kept = await run(engine, night, align="none")

    assert kept.state == "kept"
    assert "another version was put into service" in str(kept.reason)
    assert (await serving(engine))["cor *"] == "cor-by-hand"
    assert (await serving(engine))["ctr suggest"].startswith("ctr-suggest-")


async def test_a_record_keeps_what_a_database_would_refuse(engine: AsyncEngine, night: Night) -> None:
    night.plan(train_align={"exit": 1, "say": "NUL \0 and \ud800 <script>"}, ctr_train={"figures": {"hit": math.inf}})

    with pytest.raises(JobError):
        await run(engine, night)

    [record] = await job_records.list_runs(engine)
    assert "NUL  and" in str(record.reason)
    assert json.dumps(job_records.as_json(record))


async def test_with_a_share_a_policy_that_passed_is_tried_and_serves_nobody_yet(
    engine: AsyncEngine, night: Night
) -> None:
    done = await run(engine, night, policy_share=0.25)

    (last,) = [stage for stage in done.stages if stage.stage == "publish"]
    assert done.state == "done"
    assert night.calls() == [*WHOLE[:-1], "models register", "experiments try"]
    assert "policy suggest" not in await serving(engine)
    assert dict(last.figures) == {"published": 2, "tried": 1, "decided": 0}


async def test_what_was_decided_is_told_and_a_policy_that_must_wait_too(engine: AsyncEngine, night: Night) -> None:
    night.plan(
        experiments_decide={"output": {"decided": [{"experiment": "try-1", "state": "promoted", "reason": "It won."}]}},
        experiments_try={"output": {"experiment": None}},
    )

    done = await run(engine, night, policy_share=0.25)

    (last,) = [stage for stage in done.stages if stage.stage == "publish"]
    assert last.reason == "try-1: It won. Another policy is being tried on that task, so the new one was not."
    assert dict(last.figures) == {"published": 3, "tried": 0, "decided": 1}
