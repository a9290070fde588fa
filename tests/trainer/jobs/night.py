"""A night of its own for a test: a data directory, settings, the stub of `nextquery`, and what it was asked.

It knows nothing about what the stages are.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from service.contract.settings import Settings, load_settings
from tests.trainer.jobs.stub_nextquery import begin, end
from trainer.jobs.process import Beat, Finished, Limits
from trainer.jobs.window import Window, window_until

STUB = Path(__file__).with_name("stub_nextquery.py")
ROOT = Path(__file__).parents[3]


async def in_process(words: Sequence[str], log: Path, work: Path | None, beat: Beat, limits: Limits) -> Finished:
    """What `run_command` does with the stub, without a process."""
    own = words[2:]
    command, held = begin(own)
    while held.exists():
        await beat({"done": 0.5})
        await asyncio.sleep(0.02)
    code, output, said = await end(command, own)
    return Finished(exit_code=code, seconds=0.1, peak_rss_mb=10.0, output=json.loads(json.dumps(output)), said=said)


@dataclass
class Night:
    """Everything below `place`. `more`: variables beside the usual ones."""

    place: Path
    database_url: str
    more: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.stub.mkdir(parents=True, exist_ok=True)

    @property
    def data(self) -> Path:
        return self.place / "data"

    @property
    def stub(self) -> Path:
        return self.place / "stub"

    @property
    def environment(self) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("NEXTQUERY_")}
        return {
            **clean,
            "PYTHONPATH": str(ROOT),
            "STUB_DIR": str(self.stub),
            "NEXTQUERY_DATA_DIR": str(self.data),
            "NEXTQUERY_DATABASE_URL": self.database_url,
            "NEXTQUERY_JOBS__COMMAND": json.dumps([sys.executable, str(STUB)]),
            "NEXTQUERY_JOBS__DAYS": "8",
            "NEXTQUERY_JOBS__LATER_DAYS": "4",
            "NEXTQUERY_TIMEOUTS__JOB_HEARTBEAT_S": "0.2",
            **self.more,
        }

    def settings(self, **jobs: Any) -> Settings:
        return load_settings(jobs=jobs or None)

    @property
    def window(self) -> Window:
        return window_until(date(2026, 11, 13), self.settings().jobs)

    def plan(self, **by_command: Any) -> None:
        """What each command does otherwise than usual; underscores stand for blanks."""
        plans = {command.replace("_", " "): plan for command, plan in by_command.items()}
        (self.stub / "plan.json").write_text(json.dumps(plans))

    def hold(self, command: str) -> Path:
        """Let a command wait until the file is away."""
        file = self.stub / f"hold {command}"
        file.touch()
        return file

    def calls(self) -> list[str]:
        """The commands that were called, in order."""
        return [call["command"] for call in self.raw_calls()]

    def raw_calls(self) -> list[dict[str, Any]]:
        file = self.stub / "calls.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def wait_for(self, command: str, *, within_s: float = 30) -> dict[str, Any]:
        """The first call of a command, once it came."""
        ends = time.monotonic() + within_s
        while time.monotonic() < ends:
            if found := [call for call in self.raw_calls() if call["command"] == command]:
                return found[0]
            time.sleep(0.02)
        raise AssertionError(f"{command} was never called; there were {self.calls()}.")

    def start(self, *words: str) -> "subprocess.Popen[str]":
        """`nextquery job run nightly` in a process of its own."""
        command = [sys.executable, "-m", "trainer.jobs", "job", "run", *(words or ("nightly",))]
        chosen = [*command, "--window", self.window.name, "--json"]
        return subprocess.Popen(
            chosen, env=self.environment, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
