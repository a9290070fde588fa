"""Records of the runs of jobs: what each stage was given, did, measured and decided.

It starts nothing and judges nothing. Writing needs the fence of the run, reading needs none.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Executable, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from service.contract.database import database_errors
from service.contract.errors import ConfigurationError
from service.contract.fence import Fence, check_fence
from service.contract.ids import new_id
from service.contract.tables import job_runs, job_stages

ENDED_WELL = ("done", "kept")
_SILENT_AFTER = timedelta(seconds=60)
_ID = re.compile("[0-9a-f]{32}")
_MOST_TEXT = 4_000


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRecord:
    """One stage of a run; the columns of `job_stages`.

    `state`: running, done, kept (a challenger was), skipped (there was nothing to do), failed, stopped.
    """

    stage: str
    position: int
    state: str = "running"
    reason: str | None = None
    parts: Mapping[str, Any] = field(default_factory=dict)
    verdicts: Sequence[Mapping[str, Any]] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)
    plots: Sequence[str] = ()
    progress: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    peak_rss_mb: float = 0.0
    exit_code: int | None = None
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    ended_at: datetime | None = None

    @property
    def is_finished(self) -> bool:
        """Whether it need not be run again."""
        return self.state in ("done", "kept", "skipped")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """One run; the columns of `job_runs`, with its stages in order where they were asked for.

    `state`: running, waiting (for stages that are run alone), done, kept (a challenger was not promoted), failed, stopped.
    """

    run_id: str
    job: str
    window: str
    state: str
    reason: str | None
    attempts: int
    inputs: Mapping[str, Any]
    started_at: datetime
    heartbeat_at: datetime
    ended_at: datetime | None
    stages: tuple[StageRecord, ...] = ()

    def state_at(self, now: datetime) -> str:
        """The state as somebody sees it: a run that gives no sign of life was killed."""
        is_silent = self.state == "running" and now - self.heartbeat_at > _SILENT_AFTER
        return "killed" if is_silent else self.state


async def open_run(database: AsyncEngine, fence: Fence, window: str, inputs: Mapping[str, Any]) -> RunRecord:
    """The run of a window: a new one, or the one there is, with its stages. One that ended well is left as it is.

    The inputs of the first start stay: a run that goes on competes with the champions of its beginning.

    Raises:
        RegistryConflict: The lock was lost.
    """
    now = datetime.now(UTC)
    own = (job_runs.c.job == fence.job) & (job_runs.c.window == window)
    with database_errors("a run was opened"):
        async with database.begin() as connection:
            await check_fence(connection, fence)
            row = (await connection.execute(select(job_runs).where(own))).first()
            if row is None:
                run_id, state = new_id(), "running"
                first = {"run_id": run_id, "job": fence.job, "window": window, "state": state, "attempts": 1}
                times = {"started_at": now, "heartbeat_at": now}
                await connection.execute(insert(job_runs).values(inputs=storable(inputs), **first, **times))
            elif row.state not in ENDED_WELL:
                again = {"state": "running", "reason": None, "heartbeat_at": now, "ended_at": None}
                await connection.execute(update(job_runs).where(own).values(attempts=job_runs.c.attempts + 1, **again))
            found = (await connection.execute(select(job_runs.c.run_id).where(own))).scalar_one()
    return await show_run(database, found)


async def change_run(database: AsyncEngine, fence: Fence, run_id: str, **values: Any) -> None:
    """Change columns of a run, and give a sign of life. Raises RegistryConflict when the lock was lost."""
    whole = storable({"heartbeat_at": datetime.now(UTC), **values})
    await _write(database, fence, update(job_runs).where(job_runs.c.run_id == run_id).values(whole))


async def write_stage(database: AsyncEngine, fence: Fence, run_id: str, stage: StageRecord) -> None:
    """Put a stage in the place of an earlier record of it; later stages of the run are forgotten, as they stood on it."""
    stale = (job_stages.c.run_id == run_id) & (job_stages.c.position >= stage.position)
    values = storable({"run_id": run_id, **asdict(stage)})
    sign_of_life = update(job_runs).where(job_runs.c.run_id == run_id).values(heartbeat_at=datetime.now(UTC))
    await _write(database, fence, delete(job_stages).where(stale), insert(job_stages).values(values), sign_of_life)


async def list_runs(database: AsyncEngine, limit: int = 50) -> list[RunRecord]:
    """The newest runs first, without their stages."""
    query = select(job_runs).order_by(job_runs.c.run_id.desc()).limit(limit)
    with database_errors("runs were listed"):
        async with database.connect() as connection:
            return [RunRecord(**row._mapping) for row in await connection.execute(query)]


async def show_run(database: AsyncEngine, run_id: str) -> RunRecord:
    """A run with its stages.

    Raises:
        ConfigurationError: There is none of that id.
    """
    if not _ID.fullmatch(run_id):
        raise ConfigurationError("That is no id of a run. `nextquery job list` shows those there are.")
    of_run = select(job_stages).where(job_stages.c.run_id == run_id).order_by(job_stages.c.position)
    with database_errors("a run was read"):
        async with database.connect() as connection:
            row = (await connection.execute(select(job_runs).where(job_runs.c.run_id == run_id))).first()
            stages = [dict(each._mapping) for each in await connection.execute(of_run)]
    if row is None:
        raise ConfigurationError("There is no run of that id. `nextquery job list` shows those there are.")
    for stage in stages:
        del stage["run_id"]
    return RunRecord(**row._mapping, stages=tuple(StageRecord(**stage) for stage in stages))


def storable(value: Any) -> Any:
    """`value` as both databases keep it: NaN and infinity as text, no NUL, long texts cut, paths as text."""
    if isinstance(value, Mapping):
        return {storable(str(key)): storable(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [storable(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if value is None or isinstance(value, bool | int | datetime):
        return value
    text = str(value).replace("\0", "").encode("utf-8", "replace").decode("utf-8")
    return text if len(text) <= _MOST_TEXT else text[:_MOST_TEXT] + "..."


def as_json(run: RunRecord) -> dict[str, Any]:
    """The record for `--json`, moments as text."""
    found: dict[str, Any] = json.loads(json.dumps(asdict(run), default=str))
    return found


async def _write(database: AsyncEngine, fence: Fence, *statements: Executable) -> None:
    with database_errors("the record of a run was written"):
        async with database.begin() as connection:
            await check_fence(connection, fence)
            for statement in statements:
                await connection.execute(statement)
