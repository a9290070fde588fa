"""The pages at `/jobs`: what the nightly runs did, and how far the one under way is.

They know nothing about how jobs run: they show records of the database, and pictures below the data directory.
"""

from datetime import UTC, datetime

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import FileResponse, Response

from service.api.console import HEADERS
from service.api.pages import drawn
from service.contract import job_records
from service.contract.errors import ConfigurationError
from service.contract.job_records import RunRecord
from service.runtime import Runtime

router = APIRouter(include_in_schema=False)
_MOST_RUNS = 60


@router.get("/jobs")
async def list_page(request: Request) -> Response:
    """The newest runs."""
    runtime: Runtime = request.app.state.runtime
    runs = await job_records.list_runs(runtime.database, _MOST_RUNS)
    now = datetime.now(UTC)
    is_live = any(run.state_at(now) == "running" for run in runs)
    return drawn("jobs.html", "/jobs", is_live=is_live, runs=runs)


@router.get("/jobs/{run_id}")
async def run_page(request: Request, run_id: str) -> Response:
    """One run; 404 where there is none."""
    run = await _run(request, run_id)
    state = run.state_at(datetime.now(UTC))
    return drawn("job.html", "/jobs", is_live=state == "running", run=run, state=state)


@router.get("/jobs/{run_id}/{stage}/plots/{number}")
async def plot(request: Request, run_id: str, stage: str, number: str) -> Response:
    """A picture of a stage, by its place in the record; 404 where there is none, or where it is not one of ours."""
    run, runtime = await _run(request, run_id), request.app.state.runtime
    plots = next((each.plots for each in run.stages if each.stage == stage), ())
    path_of = {str(place): path for place, path in enumerate(plots)}
    if number not in path_of:
        raise HTTPException(404)
    root = runtime.settings.data_dir.resolve()
    path = (root / path_of[number]).resolve()
    if not path.is_relative_to(root) or path.suffix != ".png" or not path.is_file():
        raise HTTPException(404)
    return FileResponse(path, media_type="image/png", headers=HEADERS)


async def _run(request: Request, run_id: str) -> RunRecord:
    runtime: Runtime = request.app.state.runtime
    try:
        return await job_records.show_run(runtime.database, run_id)
    except ConfigurationError:
        raise HTTPException(404) from None
