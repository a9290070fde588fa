"""A night with the real commands on a small simulated log: what they print is what the stages read."""

import asyncio
import json
from datetime import UTC, datetime, time
from pathlib import Path

import pytest

from service.contract import database as db
from service.contract import registry
from service.contract.registry import Champion
from service.contract.snapshot import open_snapshot
from tests.conftest import TIMEOUTS
from tests.log_in_database import lay_log
from tests.trainer.jobs.night import Night
from tests.trainer.jobs.test_kill import finish
from trainer.audience.audience import Audience
from trainer.audience.in_process import LogConfig, simulate_log
from trainer.audience.listers import at_random

LISTS = 6_000
_SMALL = {
    "retrieval-build": ["--k", "1", "--train-steps", "2"],
    "ctr-train": ["--size", "tiny", "--epochs", "2", "--batch-size", "64", "--learning-rate", "0.002"],
}


async def log_of_the_window(night: Night) -> None:
    """Put a simulated log into the database, as a service would have written it."""
    audience, since = Audience(), datetime.combine(night.window.since, time(), UTC)
    config = LogConfig(task="suggest", impressions=LISTS, since=since, days=len(night.window.days))
    await simulate_log(at_random(audience), audience, config, night.place / "log")
    await lay_log(open_snapshot(night.place / "log"), night.database_url)


async def champions(url: str) -> list[Champion]:
    engine = db.create(url, TIMEOUTS)
    try:
        return await registry.list_champions(engine)
    finally:
        await engine.dispose()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_night_of_real_commands_puts_what_it_learnt_into_service(night: Night) -> None:
    night.more |= {
        "NEXTQUERY_JOBS__COMMAND": "[]",
        "NEXTQUERY_JOBS__ALIGN": "none",
        "NEXTQUERY_JOBS__OPTIONS": json.dumps(_SMALL),
        # so small a log says little about calibration
        "NEXTQUERY_JOBS__PCOC_LEAST": "0.3",
        "NEXTQUERY_JOBS__PCOC_MOST": "3",
        "NEXTQUERY_JOBS__ECE_MOST": "0.3",
    }
    asyncio.run(log_of_the_window(night))

    code, out, err = finish(night.start(), within_s=800)
    again_code, again_out, _ = finish(night.start())

    assert code == 0, err
    run = json.loads(out)
    stages = {stage["stage"]: stage for stage in run["stages"]}
    assert (run["state"], run["reason"]) == ("done", None)
    assert stages["snapshot"]["figures"]["impressions"] == LISTS
    assert [stages[name]["state"] for name in ("align", "publish")] == ["skipped", "done"]
    assert stages["ctr-train"]["peak_rss_mb"] > 100
    assert {Path(plot).name for plot in stages["ctr-train"]["plots"]} == {"roc.png", "reliability.png"}
    search, judge = (stages["ctr-train"]["parts"][f"suggest-{name}"]["output"] for name in ("search", "judge"))
    assert not set(search["days"]["train"]) & set(judge["days"]["train"])
    assert search["days"]["calibration"] < judge["days"]["train"]
    serving = {
        (champion.kind, champion.task): champion.version for champion in asyncio.run(champions(night.database_url))
    }
    assert serving == {
        ("cor", "*"): stages["retrieval-build"]["parts"]["build"]["output"]["version"],
        ("ctr", "suggest"): search["version"],
    }
    assert (again_code, json.loads(again_out)["was_done"]) == (0, False)
