"""Is it alive, is it ready, what does it measure, which version is it.

It knows nothing about lists or clicks.
"""

from importlib.metadata import version as package_version

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from pydantic import BaseModel, Field

from service.api.errors import problem
from service.contract.registry import ANY_TASK
from service.runtime import Runtime

router = APIRouter()


class Readiness(BaseModel):
    """Whether the service gives its full answers, and what each part says."""

    ready: bool
    parts: dict[str, str]


class Version(BaseModel):
    """What is running."""

    nextquery: str
    policy: str | None = Field(description="Policy of the tasks that have none of their own.")
    policies: dict[str, str] = Field(description="Policy by task; * is all that have none of their own.")
    cor: str | None
    ctr: dict[str, str] = Field(description="Click predictor by task; * is all that have none of their own.")
    engine: str


@router.get("/livez", summary="Is the process alive?")
async def livez() -> dict[str, str]:
    """Answers as long as the event loop turns."""
    return {"status": "alive"}


@router.get("/readyz", summary="Does it give its full answers?", responses={503: {"model": Readiness}})
async def readyz(request: Request) -> Readiness:
    """503 while the model loads, while the database is away, and from SIGTERM on; the ladder answers meanwhile."""
    runtime: Runtime = request.app.state.runtime
    parts = await runtime.health()
    lists_come_without = ("policy", "cor", "ctr", "experiments")  # what is refused leaves what is in service
    needed = {name: state for name, state in parts.items() if name not in lists_come_without}
    ready = all(state in ("ready", "off") for state in needed.values())
    found = Readiness(ready=ready, parts=parts)
    return found if ready else JSONResponse(found.model_dump(), status_code=503)  # type: ignore[return-value]


@router.get("/metrics", summary="Prometheus metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Counters, gauges and histograms in Prometheus' text format."""
    return Response(request.app.state.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/version", summary="What is running")
async def version(request: Request) -> Version:
    """Version of the service, its policy and its engine."""
    runtime: Runtime = request.app.state.runtime
    policies = {task: served.version for task, served in runtime.policies.in_service.items()}
    return Version(
        nextquery=package_version("nextquery"),
        policy=policies.get(ANY_TASK),
        policies=policies,
        cor=runtime.co_occurrence.version,
        ctr=runtime.click_prediction.versions,
        engine=runtime.engine_name,
    )


async def not_found(_: Request, __: Exception) -> Response:
    """404 for a path that is no call of this API."""
    return problem(404, "There is no such page. GET /openapi.json lists every call.")


async def method_not_allowed(_: Request, error: Exception) -> Response:
    """405 for a call with another method than its own, which `Allow` names."""
    allowed = getattr(error, "headers", None)
    return problem(405, "This call takes another method. GET /openapi.json lists every call.", headers=allowed)
