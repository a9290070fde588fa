"""The pages at `/traffic` and `/events`: what is served now, and what became of the events that came in.

They know nothing about how lists are made: they read the last minutes of the log, and the quarantine.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from service.api.pages import drawn
from service.contract.database import database_errors
from service.contract.tables import clicks, impressions, quarantine
from service.experiments.rollup import happened_to_lists
from service.runtime import Runtime

router = APIRouter(include_in_schema=False)
_MINUTES = 10
_MOST = 5_000  # the last lists: a page must not read a day
_EVENTS = 50


@router.get("/traffic")
async def traffic(request: Request) -> Response:
    """CTR, latency and rungs of the last minutes, by task and policy."""
    runtime: Runtime = request.app.state.runtime
    since = datetime.now(UTC) - timedelta(minutes=_MINUTES)
    with database_errors("the last lists were read"):
        async with runtime.database.connect() as connection:
            rows = await _last_lists(connection, since)
    rungs: dict[tuple[str, str], int] = {}
    for row in rows:
        rung = (row["served_by"], row["degraded_reason"] or "")
        rungs[rung] = rungs.get(rung, 0) + 1
    return drawn(
        "traffic.html",
        "/traffic",
        is_live=True,
        minutes=_MINUTES,
        lists=len(rows),
        is_cut=len(rows) == _MOST,
        groups=_by(rows, "task", "policy_version", "arm"),
        rungs=sorted(rungs.items(), key=lambda each: -each[1]),
        parts=await runtime.health(),
    )


@router.get("/events")
async def events(request: Request) -> Response:
    """How events ended, and the last that were not to be believed."""
    runtime: Runtime = request.app.state.runtime
    kept = quarantine.c
    with database_errors("the quarantine was read"):
        async with runtime.database.connect() as connection:
            reasons = (
                await connection.execute(select(kept.reason, func.count()).group_by(kept.reason).order_by(kept.reason))
            ).all()
            last = [
                row._mapping
                for row in await connection.execute(select(quarantine).order_by(kept.id.desc()).limit(_EVENTS))
            ]
    return drawn("events.html", "/events", endings=request.app.state.metrics.endings(), reasons=reasons, last=last)


async def _last_lists(connection: AsyncConnection, since: datetime) -> list[dict[str, Any]]:
    listed, happened = impressions.c, happened_to_lists(clicks.c.at >= since)
    wanted = ("task", "policy_version", "arm", "served_by", "degraded_reason", "latency_ms")
    query = (
        select(*(listed[name] for name in wanted), func.coalesce(happened.c.clicked, 0).label("clicked"))
        .select_from(impressions.outerjoin(happened, happened.c.impression_id == listed.impression_id))
        .where(listed.at >= since)
        .order_by(listed.at.desc())
        .limit(_MOST)
    )
    return [dict(row._mapping) for row in await connection.execute(query)]


def _by(rows: list[dict[str, Any]], *names: str) -> list[dict[str, Any]]:
    """CTR and latencies of the lists that agree in `names`, the most frequent first."""
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in names), []).append(row)
    groups = []
    for key, mine in sorted(found.items(), key=lambda each: -len(each[1])):
        times = sorted(row["latency_ms"] for row in mine if row["latency_ms"] is not None)
        p50, p95 = ((times[int(share * (len(times) - 1))] if times else None) for share in (0.5, 0.95))
        ctr = sum(row["clicked"] for row in mine) / len(mine)
        groups.append({**dict(zip(names, key, strict=True)), "lists": len(mine), "ctr": ctr, "p50": p50, "p95": p95})
    return groups
