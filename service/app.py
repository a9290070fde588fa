"""The composition root: settings in, a running HTTP service out.

It knows every part by name and none by its insides.
"""

import asyncio
import contextlib
import gc
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from pydantic.json_schema import models_json_schema

from service.api import click, console, experiments, health, jobs, models, recommend, traffic
from service.api.edge import Edge
from service.api.metrics import Metrics
from service.api.raw_route import handlers
from service.api.schemas import ClickBatch, ClickEvent, Problem, PromoteBody, RecommendBody, RollbackBody
from service.api.server import ImpatientProtocol, Server
from service.contract.logs import configure_logging
from service.contract.settings import Settings
from service.runtime import Runtime

_COULD_NOT_START = 3


def create_app(settings: Settings) -> FastAPI:
    """The application; its parts start with its lifespan."""
    runtime, metrics = Runtime(settings), Metrics()

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await runtime.start()
        gc.freeze()  # what starting made stays; collections need not look at it again
        try:
            yield
        finally:
            await runtime.close()

    app = FastAPI(
        title="nextquery",
        summary="The queries that a person is most likely to click next",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # a redirect would repeat the caller's Host and path
        exception_handlers={404: health.not_found, 405: health.method_not_allowed},
    )
    app.state.runtime, app.state.metrics = runtime, metrics
    for part in (recommend, click, models, health, console, experiments, traffic, jobs):
        app.include_router(part.router)
    app.include_router(models.pages)
    _document_bodies(app)
    _measure(runtime, metrics)
    app.add_middleware(
        Edge,
        direct=handlers(app.routes),
        metrics=metrics,
        max_body_bytes=settings.max_body_bytes,
        max_in_flight=settings.max_in_flight,
        body_timeout_s=settings.timeouts.request_body_s,
    )
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=settings.cors_origins, allow_methods=["POST"], allow_headers=["content-type"]
        )
    return app


def serve(settings: Settings, announce: Callable[[str], None]) -> int:
    """Serve until a signal comes; `announce` tells a person where.

    Returns:
        The exit code: 0 after a clean stop, 3 when it could not start.
    """
    configure_logging(settings.log_level)
    app = create_app(settings)
    runtime: Runtime = app.state.runtime
    protocol = type("Protocol", (ImpatientProtocol,), {"head_timeout_s": settings.timeouts.request_head_s})
    config = uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=int(settings.timeouts.shutdown_s),
    )
    server = Server(config, on_stop=runtime.begin_stop)
    listener = _listen(settings)
    host, port = listener.getsockname()[:2]
    announce(f"nextquery is at http://{host}:{port} (the model loads meanwhile; Ctrl+C stops)")
    try:
        with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
            runner.run(server.serve(sockets=[listener]))
    except SystemExit:  # uvicorn's way to say that the lifespan failed; the log says why
        return _COULD_NOT_START
    return 0 if server.started else _COULD_NOT_START


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    return socket.create_server((settings.host, settings.port), family=family, backlog=1024)


def _document_bodies(app: FastAPI) -> None:
    """Put the bodies that our routes read themselves into the OpenAPI document."""
    original = app.openapi

    def openapi() -> dict[str, Any]:
        document = original()
        models = [
            (model, "validation")
            for model in (RecommendBody, ClickEvent, ClickBatch, PromoteBody, RollbackBody, Problem)
        ]
        _, schemas = models_json_schema(models, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
        document["components"]["schemas"].update(schemas["$defs"])
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _measure(runtime: Runtime, metrics: Metrics) -> None:
    metrics.gauge("nextquery_engine_ready", "1 when the engine answers.", lambda: runtime.engine_phase == "ready")
    metrics.gauge("nextquery_writer_queue", "Rows that wait for their commit.", lambda: runtime.writer.queued)
