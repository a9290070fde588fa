"""Runs one stage: its sub-processes one after the other, each recorded, and its gate at the end.

It knows no stage by name.
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from service.contract import job_records
from service.contract.artifact import MANIFEST, manifest_sha256
from service.contract.errors import DatabaseError, JobError, NextQueryError
from service.contract.job_records import StageRecord
from service.contract.settings import Settings
from trainer.jobs.lock import HeldLock
from trainer.jobs.process import Finished, Limits, Start
from trainer.jobs.stage import Judgement, Part, RunSoFar, Stage

_THIS_INSTALLATION = (sys.executable, "-m", "service.contract.command_line")
_MOST_PLOTS = 20


class StageRun:
    """One stage of one run, while it is under way."""

    def __init__(
        self,
        database: AsyncEngine,
        settings: Settings,
        lock: HeldLock,
        run_id: str,
        stage: Stage,
        position: int,
        *,
        start: Start,
    ) -> None:
        """`lock` is checked at every sign of life; `start` runs a command."""
        self._database, self._settings, self._lock, self._run_id = database, settings, lock, run_id
        self._start = start
        self._stage = stage
        self._record = StageRecord(stage=stage.name, position=position)

    async def run(self, so_far: RunSoFar, earlier: Mapping[str, Any]) -> StageRecord:
        """The finished stage. `earlier`: parts that an attempt before this one finished; they are not run again.

        Raises:
            JobError: A part failed or the gate says that going on makes no sense; the record says why.
        """
        try:
            await self._write()
            parts = self._stage.parts(so_far)
            for part in parts:
                known = earlier.get(part.name)
                if known and known["words"] == list(part.words) and known["exit_code"] == 0 and is_still_there(known):
                    await self._add(part, known)
                else:
                    await self._run_part(part)
            outputs = {name: part["output"] for name, part in self._record.parts.items()}
            await self._end(self._stage.judge(so_far, outputs), ran=bool(parts))
        except (NextQueryError, OSError) as error:
            await self._give_up("failed", str(error))
            raise
        except asyncio.CancelledError:
            await self._give_up("stopped", "It was stopped by a signal.")
            raise
        return self._record

    async def _run_part(self, part: Part) -> None:
        words = [*(self._settings.jobs.command or _THIS_INSTALLATION), *part.words]
        if part.is_fenced:
            words += ["--fence", str(self._lock.fence)]
        log = self._settings.data_dir / "jobs" / self._run_id / f"{self._stage.name}-{part.name}"
        times = self._settings.timeouts

        async def beat(progress: Mapping[str, Any]) -> None:
            self._lock.check()
            with contextlib.suppress(DatabaseError):  # the lock is held, so the next sign of life may get through
                await self._write(progress={"part": part.name, **progress})

        limits = Limits(timeout_s=times.job_stage_s, beat_every_s=times.job_heartbeat_s)
        finished = await self._start(words, log, part.work, beat, limits)
        self._lock.check()
        await self._add(part, self._facts(part, finished))
        if reason := self._problem(part, finished):
            raise JobError(reason)

    def _facts(self, part: Part, finished: Finished) -> dict[str, Any]:
        output = {key: value for key, value in (finished.output or {}).items() if key != "files"}
        directory = Path(str(output["directory"])) if "directory" in output else None
        has_manifest = directory is not None and (directory / MANIFEST).is_file()
        return {
            "words": list(part.words),
            "output": output,
            "sha256": manifest_sha256(directory) if directory and has_manifest else None,
            "exit_code": finished.exit_code,
            "seconds": finished.seconds,
            "peak_rss_mb": finished.peak_rss_mb,
            "plots": self._plots(directory, part.pictures),
        }

    def _plots(self, *places: Path | None) -> list[str]:
        """Pictures in these directories, by path below the data directory."""
        root = self._settings.data_dir.resolve()
        found = [path.resolve() for place in places if place for path in sorted(place.rglob("*.png"))]
        return [os.fspath(path.relative_to(root)) for path in found if path.is_relative_to(root)][:_MOST_PLOTS]

    def _problem(self, part: Part, finished: Finished) -> str | None:
        command = " ".join(word for word in part.words[:2] if not word.startswith("-"))
        name = f"`nextquery {command}` of stage {self._stage.name} ({part.name})"
        if finished.exit_code is None:
            most = f"{self._settings.timeouts.job_stage_s:g} s"
            return f"{name} took longer than {most} and was ended. Raise NEXTQUERY_TIMEOUTS__JOB_STAGE_S, or look why."
        if finished.exit_code != 0:
            said = finished.said.splitlines()[-1] if finished.said else "It said nothing."
            return f"{name} ended with {finished.exit_code}: {said}"
        return None if finished.output is not None else f"{name} wrote no JSON to stdout."

    async def _add(self, part: Part, facts: Mapping[str, Any]) -> None:
        parts = {**self._record.parts, part.name: facts}
        plots: Sequence[str] = [path for each in parts.values() for path in each["plots"]]
        await self._write(
            parts=parts,
            plots=plots,
            progress={},
            seconds=sum(each["seconds"] for each in parts.values()),
            peak_rss_mb=max(each["peak_rss_mb"] for each in parts.values()),
            exit_code=facts["exit_code"],
        )

    async def _end(self, judgement: Judgement, *, ran: bool) -> None:
        refused = [verdict.sentence() for verdict in judgement.verdicts if not verdict.passed]
        await self._write(
            state="kept" if refused else "done" if ran else "skipped",
            reason=" ".join(refused) or judgement.reason,
            verdicts=[asdict(verdict) for verdict in judgement.verdicts],
            figures=judgement.figures,
            ended_at=datetime.now(UTC),
        )

    async def _give_up(self, state: str, reason: str) -> None:
        with contextlib.suppress(NextQueryError):  # the lock or the database is lost: the record stays as it was
            await self._write(state=state, reason=reason, ended_at=datetime.now(UTC))

    async def _write(self, **changes: Any) -> None:
        self._record = replace(self._record, **changes)
        await job_records.write_stage(self._database, self._lock.fence, self._run_id, self._record)


def is_still_there(part: Mapping[str, Any]) -> bool:
    """Whether what a part made is what it was: a directory that it sealed has the same manifest."""
    if part["sha256"] is None:
        return True
    directory = Path(part["output"]["directory"])
    return (directory / MANIFEST).is_file() and manifest_sha256(directory) == part["sha256"]
