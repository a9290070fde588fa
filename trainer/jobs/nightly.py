"""The nightly run: its stages in order, one run for each window, alone at work. GQR 3.4.

It knows no command. A run that was killed goes on: a stage is done once its record says so, its commands are the same,
and what it made is still there.
"""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, cast

from sqlalchemy.ext.asyncio import AsyncEngine

from service.contract import job_records, registry
from service.contract.errors import ConfigurationError, JobError, NextQueryError
from service.contract.fence import Fence
from service.contract.job_records import ENDED_WELL, RunRecord, StageRecord
from service.contract.settings import Settings
from trainer.jobs.lock import HeldLock, hold_lock
from trainer.jobs.process import Start, run_command
from trainer.jobs.stage import RunSoFar, Served, Stage, Verdict
from trainer.jobs.stage_run import StageRun, is_still_there
from trainer.jobs.stages import all_stages
from trainer.jobs.window import Window

JOB = "nightly"
ORDER = ("snapshot", "retrieval-build", "ctr-train", "align", "evaluate", "publish")


async def run_nightly(
    database: AsyncEngine, settings: Settings, window: Window, *, alone: str | None = None, start: Start = run_command
) -> tuple[RunRecord, bool]:
    """Run what is left of the window, or one stage of it `alone`; returns the run, and whether anything was done.

    `start` runs a command.

    Raises:
        JobBusy: Another run is under way.
        JobError: A stage failed, or an earlier one is missing; its reason is in the record.
        ConfigurationError: A setting is wrong; nothing was started.
    """
    async with hold_lock(database, JOB) as lock:
        run = await job_records.open_run(database, lock.fence, window.name, await _inputs(database, settings))
        if run.state in ENDED_WELL:
            return run, False
        async with _ending(database, lock.fence, run.run_id):
            was_done = await _Nightly(database, settings, window, lock, run, start).go(alone)
        return await job_records.show_run(database, run.run_id), was_done


class _Nightly:
    """One attempt at a run."""

    def __init__(
        self,
        database: AsyncEngine,
        settings: Settings,
        window: Window,
        lock: HeldLock,
        run: RunRecord,
        start: Start,
    ) -> None:
        """`run`: as the attempts before this one left it."""
        self._database, self._settings, self._window, self._lock = database, settings, window, lock
        self._run_id, self._start = run.run_id, start
        self._champions = {(each["kind"], each["serves"]): Served(**each["model"]) for each in run.inputs["champions"]}
        self._recorded = {stage.stage: stage for stage in run.stages}
        self._finished: dict[str, StageRecord] = {}

    async def go(self, alone: str | None) -> bool:
        """Whether a stage had to be run. The run ends as `done` or `kept` with its last stage, and waits otherwise."""
        worked = False
        for position, name in enumerate(ORDER, 1):
            stage, so_far = all_stages()[name], await self._so_far()
            if (recorded := self._reusable(stage, so_far)) is not None:
                self._finished[name] = recorded
            elif alone not in (None, name):
                raise JobError(
                    f"Stage {alone} stands on {name}, which is not finished for {self._window.name}. Run "
                    f"`nextquery job run {name} --window {self._window.name}` first, or the whole night."
                )
            else:
                self._finished[name] = await self._run(stage, position, so_far)
                worked = True
            if name == alone:
                break
        await self._close()
        return worked

    async def _run(self, stage: Stage, position: int, so_far: RunSoFar) -> StageRecord:
        self._recorded = {name: each for name, each in self._recorded.items() if each.position <= position}
        earlier = self._recorded.get(stage.name)
        running = StageRun(self._database, self._settings, self._lock, self._run_id, stage, position, start=self._start)
        return await running.run(so_far, earlier.parts if earlier else {})

    def _reusable(self, stage: Stage, so_far: RunSoFar) -> StageRecord | None:
        recorded = self._recorded.get(stage.name)
        if recorded is None or not recorded.is_finished:
            return None
        words = {part.name: list(part.words) for part in stage.parts(so_far)}
        same = {name: part["words"] for name, part in recorded.parts.items()} == words
        return recorded if same and all(map(is_still_there, recorded.parts.values())) else None

    async def _so_far(self) -> RunSoFar:
        finished = self._finished.values()
        return RunSoFar(
            window=self._window,
            settings=self._settings,
            outputs={each.stage: {name: part["output"] for name, part in each.parts.items()} for each in finished},
            verdicts=[_verdict(each) for stage in finished for each in stage.verdicts],
            champions=self._champions,
            champions_now={
                (each["kind"], each["serves"]): Served(**each["model"]) for each in await _champions(self._database)
            },
        )

    async def _close(self) -> None:
        values: dict[str, Any] = {"state": "waiting", "reason": None}
        if len(self._finished) == len(ORDER):
            kept = [_verdict(each) for stage in self._finished.values() for each in stage.verdicts]
            reasons = [verdict.sentence() for verdict in kept if not verdict.passed]
            values = {"state": "kept" if reasons else "done", "reason": " ".join(reasons) or None}
        ended = datetime.now(UTC)
        await job_records.change_run(self._database, self._lock.fence, self._run_id, ended_at=ended, **values)


@asynccontextmanager
async def _ending(database: AsyncEngine, fence: Fence, run_id: str) -> AsyncIterator[None]:
    """Write down how a run ended that did not end well; SIGTERM and Ctrl+C end it in order."""
    loop, task = asyncio.get_running_loop(), cast("asyncio.Task[object]", asyncio.current_task())
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    state, reason = "failed", "It ended in a way that nobody foresaw; its own log says how."
    try:
        yield
        state = ""
    except NextQueryError as error:
        reason = str(error)
        raise
    except OSError as error:
        reason = f"A file could not be written: {error}. Make room, and run the job again: it goes on from there."
        raise JobError(reason) from error
    except asyncio.CancelledError:
        state, reason = "stopped", "It was stopped by a signal; the next run goes on from the last finished stage."
        raise
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
        if state:
            with contextlib.suppress(NextQueryError):  # the lock or the database is lost: the record stays as it was
                ended = datetime.now(UTC)
                await job_records.change_run(database, fence, run_id, state=state, reason=reason, ended_at=ended)


async def _inputs(database: AsyncEngine, settings: Settings) -> dict[str, Any]:
    """What a run begins with: settings, versions of code, and the champions that its challengers compete with."""
    if settings.jobs.align != "none":
        await registry.ensure_starter(database)
    versions = {name: version(name) for name in ("nextquery", "torch", "transformers")}
    return {
        "jobs": settings.jobs.model_dump(mode="json"),
        "versions": versions,
        "champions": await _champions(database),
    }


async def _champions(database: AsyncEngine) -> list[dict[str, Any]]:
    found = []
    for champion in await registry.list_champions(database):
        model = await registry.show(database, champion.version)
        served = Served(
            version=champion.version,
            directory=str(champion.directory),
            revision=champion.revision,
            task=model.task,
            metrics=dict(model.metrics),
        )
        found.append({"kind": champion.kind, "serves": champion.task, "model": asdict(served)})
    return found


def _verdict(stored: Mapping[str, Any]) -> Verdict:
    return Verdict(**{**stored, "reasons": tuple(stored["reasons"])})


def refuse_unknown_job(name: str) -> None:
    """Raise ConfigurationError unless `name` is the night or one of its stages."""
    if name not in (JOB, *ORDER):
        raise ConfigurationError(f"There is no job {name!r}. The jobs are {', '.join((JOB, *ORDER))}.")
