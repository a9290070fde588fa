"""The pages at `/jobs`: what the nightly runs did, and how far the one under way is.

They know nothing about how jobs run: they show records of the database, and pictures below the data directory.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import FileResponse, HTMLResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from service.api.console import HEADERS
from service.contract import job_records
from service.contract.errors import ConfigurationError
from service.contract.job_records import RunRecord
from service.runtime import Runtime

router = APIRouter(include_in_schema=False)
_MOST_RUNS = 60


def _figure(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _duration(seconds: float) -> str:
    minutes = int(seconds // 60)
    return (
        f"{minutes // 60} h {minutes % 60} min"
        if minutes >= 60
        else f"{minutes} min"
        if minutes
        else f"{seconds:.1f} s"
    )


_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("console")), autoescape=True, undefined=StrictUndefined
)
_TEMPLATES.filters |= {"figure": _figure, "duration": _duration}
_LIST, _RUN = (_TEMPLATES.get_template(name) for name in ("jobs.html", "job.html"))


@router.get("/jobs")
async def list_page(request: Request) -> Response:
    """The newest runs."""
    runtime: Runtime = request.app.state.runtime
    runs = await job_records.list_runs(runtime.database, _MOST_RUNS)
    now = datetime.now(UTC)
    is_live = any(run.state_at(now) == "running" for run in runs)
    return HTMLResponse(_LIST.render(runs=runs, now=now, is_live=is_live), headers=HEADERS)


@router.get("/jobs/{run_id}")
async def run_page(request: Request, run_id: str) -> Response:
    """One run; 404 where there is none."""
    run, now = await _run(request, run_id), datetime.now(UTC)
    page = _RUN.render(run=run, now=now, state=run.state_at(now), is_live=run.state_at(now) == "running")
    return HTMLResponse(page, headers=HEADERS)


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
