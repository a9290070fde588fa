"""Models: the page at `/models`, and POST /models/promote and /models/rollback, which it calls once somebody confirmed.

It knows nothing about how models are made. Whoever may call these calls changes what everybody is served: they are
refused unless the service listens on loopback, or the settings allow them.
"""

from ipaddress import ip_address
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from service.api.body import documented, read_body
from service.api.errors import HttpProblem
from service.api.pages import drawn
from service.api.raw_route import RawRoute
from service.api.schemas import ChampionReply, PromoteBody, RollbackBody
from service.contract import registry
from service.contract.registry import Champion
from service.contract.settings import Settings
from service.runtime import Runtime

router = APIRouter(route_class=RawRoute)
pages = APIRouter(include_in_schema=False)
_MOST = 200


@pages.get("/models")
async def page(request: Request) -> Response:
    """Champions, and every version with its lineage and metrics."""
    runtime: Runtime = request.app.state.runtime
    versions = await registry.list_versions(runtime.database)
    champions = await registry.list_champions(runtime.database)
    serves: dict[str, list[str]] = {}
    for each in champions:
        serves.setdefault(each.version, []).append(each.task)
    served = {task: each.version for task, each in runtime.policies.in_service.items()}
    return drawn(
        "models.html",
        "/models",
        versions=versions[:_MOST],
        champions=champions,
        serves=serves,
        served=served,
        problem=runtime.policies.problem,
        may_change=may_change(runtime.settings),
    )


@router.post(
    "/models/promote",
    **documented((PromoteBody,), {200: ChampionReply}, "Put a registered version into service.", (403, 409)),
)
async def promote(request: Request) -> Response:
    """It becomes champion over whichever is now; running services take it up within seconds."""
    body = PromoteBody.model_validate_json(await _read(request))
    database = request.app.state.runtime.database
    model = await registry.show(database, body.version)
    return _reply(await registry.put_in_front(database, model, task=body.task))


@router.post(
    "/models/rollback",
    **documented((RollbackBody,), {200: ChampionReply}, "Put the version before back into service.", (403, 409)),
)
async def rollback(request: Request) -> Response:
    """The champion before serves again."""
    body = RollbackBody.model_validate_json(await _read(request))
    return _reply(await registry.roll_back(request.app.state.runtime.database, body.kind, body.task))


def may_change(settings: Settings) -> bool:
    """True where whoever reaches the service may change what it serves."""
    return settings.console_changes or _is_loopback(settings.host)


async def _read(request: Request) -> bytes:
    """The body.

    Raises:
        HttpProblem: Changes are not allowed here, or a page of another site sends it.
    """
    if not may_change(request.app.state.runtime.settings):
        raise HttpProblem(
            403,
            "This service listens beyond loopback, where anybody could change what it serves. Use `nextquery models`, or "
            "set NEXTQUERY_CONSOLE_CHANGES=true behind a gateway that knows who asks.",
            close=True,
        )
    # No other site can send this type, or leave this header out, without being asked for permission first.
    declared = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if declared != "application/json" or request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        raise HttpProblem(
            403, "Only the console's own page and programs may change models: send application/json.", close=True
        )
    return await read_body(request)


def _reply(champion: Champion) -> Response:
    said: dict[str, Any] = {name: getattr(champion, name) for name in ChampionReply.model_fields}
    return Response(ChampionReply(**said).model_dump_json(), media_type="application/json")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
