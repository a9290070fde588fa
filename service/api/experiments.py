"""The pages at `/experiments`: what runs, and the report of each with its plot.

They know nothing about statistics: they show reports.
"""

import asyncio
from io import BytesIO
from typing import TYPE_CHECKING

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import Response

from service.api.console import HEADERS
from service.api.pages import drawn
from service.contract.errors import ConfigurationError
from service.experiments import store
from service.runtime import Runtime

if TYPE_CHECKING:  # it brings scipy, which takes a second that a service without experiments need not wait for
    from service.experiments.report import Report

router = APIRouter(include_in_schema=False)


@router.get("/experiments")
async def list_page(request: Request) -> Response:
    """All experiments, the newest first, and what is wrong with the file."""
    runtime: Runtime = request.app.state.runtime
    found = await store.list_experiments(runtime.database)
    file = runtime.settings.resolved_experiments_file()
    return drawn("experiments.html", "/experiments", kept=found, problem=runtime.experiments.problem, file=file)


@router.get("/experiments/{name}")
async def report_page(request: Request, name: str) -> Response:
    """The report of one; 404 where there is none."""
    return drawn("experiment.html", "/experiments", report=await _report(request, name))


@router.get("/experiments/{name}/days.png")
async def plot(request: Request, name: str) -> Response:
    """CTR by arm and day."""
    from service.experiments.plot import plot_days

    report, picture = await _report(request, name), BytesIO()
    await asyncio.to_thread(plot_days, report, picture)
    return Response(picture.getvalue(), media_type="image/png", headers=HEADERS)


async def _report(request: Request, name: str) -> "Report":
    from service.experiments.report import make_report

    runtime: Runtime = request.app.state.runtime
    try:
        return await make_report(runtime.database, name)
    except ConfigurationError:
        raise HTTPException(404) from None
