"""Services for the tests of the API: one inside the test, for calls; real processes, for abuse.

It knows nothing about single calls.
"""

import asyncio
import contextlib
import dataclasses
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from service.app import create_app
from service.contract.settings import Settings
from service.events.click_token import ClickClaims
from tests.conftest import emptied
from tests.service_process import ServiceProcess, running, scripted_policy


class Api(httpx.AsyncClient):
    """A client of an application in this process. `app.state.runtime` are its parts."""

    def __init__(self, app: FastAPI) -> None:
        super().__init__(transport=httpx.ASGITransport(app=app, raise_app_exceptions=False), base_url="http://test")
        self.app = app

    async def recommend(self, **body: Any) -> dict[str, Any]:
        """The reply to a request that must succeed."""
        reply = await self.post("/recommend", json={"task": "suggest", "query": "kyoto in autumn", **body})
        assert reply.status_code == 200, reply.text
        return dict(reply.json())


OpenApi = Callable[..., AbstractAsyncContextManager[Api]]


@pytest.fixture(scope="session")
def policy_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sealed policy that writes English: a tokenizer and a manifest, enough for the scripted engine."""
    return scripted_policy(tmp_path_factory.mktemp("policy") / "model")


@pytest.fixture
def open_api(database_url: str, tmp_path: Path, policy_directory: Path) -> OpenApi:
    """`async with open_api(engine="off", ...) as api`: a started application on `database_url`; `wait` until ready."""

    @contextlib.asynccontextmanager
    async def opened(*, wait: bool = True, **settings: Any) -> AsyncIterator[Api]:
        chosen = {"engine": "scripted", "policy": str(policy_directory), **settings}
        app = create_app(Settings(_env_file=None, data_dir=tmp_path, database_url=database_url, **chosen))
        async with app.router.lifespan_context(app), Api(app) as api:
            if wait:
                await _ready(api)
            yield api

    return opened


@pytest.fixture
async def api(open_api: OpenApi) -> AsyncIterator[Api]:
    """An application with the scripted engine, ready."""
    async with open_api() as opened:
        yield opened


@pytest.fixture(
    scope="module",
    params=[("sqlite", "off"), ("postgresql", "scripted")],  # each database, each engine
    ids="-".join,
)
def service(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, policy_directory: Path
) -> Iterator[ServiceProcess]:
    """A real process on each database, once with the engine off and once scripted; all tests of a module share it."""
    kind, engine = request.param
    settings = {"engine": engine, "policy": str(policy_directory)}
    if kind == "postgresql":
        settings["database_url"] = emptied(request.getfixturevalue("postgresql_url"))
    settings |= {"timeouts__request_head_s": "1", "timeouts__request_body_s": "1", "timeouts__recommend_s": "1"}
    with running(tmp_path_factory.mktemp(f"{kind}-{engine}"), until="/readyz", **settings) as started:
        yield started


def claims(**changes: Any) -> ClickClaims:
    """What a click token says of a list of three that nobody stored, valid for an hour."""
    shown = ClickClaims(
        impression_id=uuid.uuid4().hex,
        tenant="default",
        task="suggest",
        arm="control",
        policy_version=None,
        ctr_version=None,
        cor_version=None,
        n_shown=3,
        expires_at=int(time.time()) + 3600,
    )
    return dataclasses.replace(shown, **changes)


def moment(value: Any) -> datetime:
    """A stored time, as either database gives it back."""
    found = datetime.fromisoformat(value) if isinstance(value, str) else value
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def age(value: Any) -> timedelta:
    """How long ago a stored time is."""
    return datetime.now(UTC) - moment(value)


async def _ready(api: Api) -> None:
    for _ in range(200):
        if (await api.get("/readyz")).status_code == 200:
            return
        await asyncio.sleep(0.02)
    raise AssertionError((await api.get("/readyz")).text)
