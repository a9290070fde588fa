"""The pages of nightly runs: records as they are, every text escaped, progress that moves, and no file but plots."""

import dataclasses
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import expect
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine

from service.contract import database as db
from service.contract import job_records
from service.contract.fence import Fence, take_number
from service.contract.job_records import StageRecord
from service.contract.tables import job_runs
from tests.api.conftest import OpenApi
from tests.browser import chromium, open_page
from tests.conftest import TIMEOUTS
from tests.service_process import running

WINDOW = "2026-11-01--2026-11-22"
SCRIPT = '<img src=x onerror="window.harmed = 1"><script>window.harmed = 1</script>'
PNG = b"\x89PNG\r\n\x1a\n"


def part(**changes: Any) -> dict[str, Any]:
    usual = {"words": ["ctr", "train"], "output": {"version": "v1"}, "sha256": None, "exit_code": 0}
    return {**usual, "seconds": 75.0, "peak_rss_mb": 812.4, "plots": [], **changes}


async def stored(engine: AsyncEngine, *stages: StageRecord, **changes: Any) -> tuple[Fence, str]:
    fence = await take_number(engine, "nightly")
    run = await job_records.open_run(engine, fence, WINDOW, {"versions": {"nextquery": "0.1.0"}})
    for stage in stages:
        await job_records.write_stage(engine, fence, run.run_id, stage)
    if changes:
        await job_records.change_run(engine, fence, run.run_id, **changes)
    return fence, run.run_id


async def test_without_runs_the_page_says_how_to_start_one(open_api: OpenApi) -> None:
    async with open_api(engine="off", wait=False) as api:
        page = await api.get("/jobs")

    assert page.status_code == 200
    assert "nextquery job run nightly" in page.text


async def test_a_run_is_listed_and_shown_with_stages_figures_reasons_and_memory(
    open_api: OpenApi, engine: AsyncEngine
) -> None:
    reason = "v1 (ctr for suggest) was not promoted: its AUC is 0.6500, and the champion's is 0.7000."
    trained = StageRecord(
        stage="ctr-train", position=3, state="kept", reason=reason, parts={"suggest-search": part()},
        figures={"suggest search auc": 0.65}, seconds=75.0, peak_rss_mb=812.4, exit_code=0,
    )  # fmt: skip
    _, run_id = await stored(engine, trained, state="kept", reason=reason, ended_at=datetime.now(UTC))
    async with open_api(engine="off", wait=False) as api:
        listed, shown = (await api.get("/jobs")).text, (await api.get(f"/jobs/{run_id}")).text

    assert f'href="/jobs/{run_id}"' in listed
    for text in ("2026-11-01 to 2026-11-22", "kept", "0.6500, and the champion&#39;s is 0.7000"):
        assert text in listed
        assert text in shown
    for text in ("ctr-train", "1 min, 812 MiB at most", "suggest search auc", "0.65", "nextquery ctr train", "0.1.0"):
        assert text in shown
    assert "data-live" not in shown


async def test_every_text_of_a_record_is_shown_as_text(open_api: OpenApi, engine: AsyncEngine) -> None:
    hostile = StageRecord(
        stage=SCRIPT, position=1, state=SCRIPT, reason=SCRIPT + ".", figures={SCRIPT: SCRIPT},
        parts={SCRIPT: part(words=[SCRIPT], output={SCRIPT: SCRIPT})}, progress={SCRIPT: SCRIPT}, plots=[SCRIPT],
        verdicts=[{"version": SCRIPT, "kind": SCRIPT, "task": SCRIPT, "reasons": [SCRIPT]}],
    )  # fmt: skip
    _, run_id = await stored(engine, hostile, reason=SCRIPT, inputs={SCRIPT: SCRIPT})
    async with open_api(engine="off", wait=False) as api:
        pages = [(await api.get(path)).text for path in ("/jobs", f"/jobs/{run_id}")]

    assert all("&lt;script&gt;" in page and "window.harmed" in page for page in pages)
    assert all("<script>" not in page and "<img src=x" not in page for page in pages)


async def test_a_run_without_signs_of_life_is_shown_as_killed(open_api: OpenApi, engine: AsyncEngine) -> None:
    _, run_id = await stored(engine)
    async with engine.begin() as connection:
        await connection.execute(update(job_runs).values(heartbeat_at=datetime.now(UTC) - timedelta(minutes=2)))
    async with open_api(engine="off", wait=False) as api:
        shown = (await api.get(f"/jobs/{run_id}")).text

    assert 'data-state="killed"' in shown
    assert "data-live" not in shown


@pytest.mark.parametrize("name", ["x", "0" * 32, "%00", "..%2f..", "a'--", "é" * 16])
async def test_an_unknown_run_is_not_found(open_api: OpenApi, name: str) -> None:
    async with open_api(engine="off", wait=False) as api:
        replies = [await api.get(f"/jobs/{name}"), await api.get(f"/jobs/{name}/ctr-train/plots/0")]

    assert [reply.status_code for reply in replies] == [404, 404]


async def test_only_plots_below_the_data_directory_are_served(
    open_api: OpenApi, engine: AsyncEngine, tmp_path: Path
) -> None:
    (tmp_path / "ctr").mkdir()
    for name in ("ctr/roc.png", "secret.txt", "../outside.png"):
        (tmp_path / name).write_bytes(PNG)
    (tmp_path / "ctr" / "link.png").symlink_to(tmp_path.parent / "outside.png")
    plots = ["ctr/roc.png", "secret.txt", "../outside.png", str(tmp_path / "ctr/roc.png"), "ctr/link.png", "ctr/no.png"]
    _, run_id = await stored(engine, StageRecord(stage="ctr-train", position=3, plots=plots))
    async with open_api(engine="off", wait=False) as api:
        numbers = [*range(len(plots)), 99, -1, "x"]
        replies = [await api.get(f"/jobs/{run_id}/ctr-train/plots/{number}") for number in numbers]

    # the absolute path is the same file again
    assert [reply.status_code for reply in replies] == [200, 404, 404, 200, 404, 404, 404, 404, 404]
    assert (replies[0].content, replies[0].headers["content-type"]) == (PNG, "image/png")


async def test_the_pages_have_the_strict_headers(open_api: OpenApi, engine: AsyncEngine) -> None:
    _, run_id = await stored(engine)
    async with open_api(engine="off", wait=False) as api:
        for path in ("/jobs", f"/jobs/{run_id}", "/console/pages.css", "/console/pages.js"):
            headers = (await api.get(path)).raise_for_status().headers

            assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
            assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.slow
async def test_progress_moves_on_the_open_page_until_the_run_ends(tmp_path: Path) -> None:
    with running(tmp_path) as service:
        engine = db.create(service.database_url, TIMEOUTS)
        stage = StageRecord(stage="ctr-train", position=3, parts={"suggest-search": part()}, progress={"done": 0.25})
        fence, run_id = await stored(engine, stage)
        async with (
            chromium() as browser,
            open_page(browser, f"{service.url}/jobs/{run_id}", width=400) as (page, complaints),
        ):
            await expect(page.locator("progress")).to_have_attribute("value", "0.25")
            await page.click("#commands-ctr-train summary")
            for width in (400, 1280):
                await page.set_viewport_size({"width": width, "height": 800})
                assert await page.evaluate("document.documentElement.scrollWidth") <= width

            moved = dataclasses.replace(stage, progress={"done": 0.75, "part": SCRIPT, "eta_s": 12.0})
            await job_records.write_stage(engine, fence, run_id, moved)
            await expect(page.locator("progress")).to_have_attribute("value", "0.75")
            await expect(page.locator("#commands-ctr-train")).to_have_attribute("open", "")  # as the reader left it

            await job_records.write_stage(engine, fence, run_id, dataclasses.replace(stage, state="done"))
            await job_records.change_run(engine, fence, run_id, state="done", ended_at=datetime.now(UTC))
            await expect(page.locator("h1 .state")).to_have_text("done")
            await expect(page.locator("progress")).to_have_count(0)
            assert await page.evaluate("window.harmed === undefined")
            assert complaints == []
        await engine.dispose()
