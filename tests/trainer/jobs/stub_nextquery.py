"""Stands in for the `nextquery` command in tests of jobs: sealed directories and figures as a plan says.

It trains nothing. The registry that it publishes to is the real one. In the folder STUB_DIR:

    plan.json         by command: `exit` and `say` of a failure, `figures` and `output` that differ from the usual ones
    hold COMMAND      while it is there, the command waits before it does anything
    calls.jsonl       what was called, in order
"""

import asyncio
import hashlib
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

PREDICTOR = {"auc": 0.7, "pcoc": 1.02, "ece": 0.01, "logloss": 0.4, "normalised_entropy": 0.9}
BUILD = {"coverage": 0.9, "hit1": 0.1, "hit3": 0.2, "hit10": 0.3}
ALIGNED = {
    "aec_judge": 0.2,
    "aec_judge_before": 0.1,
    "parse_failures": 0.0,
    "duplicate_share": 0.0,
    "length_ratio": 1.0,
}
POLICY = {"parse_ok_share": 0.99, "latency_p95_ms": 100.0}
_HOLD_S = 60.0


def made(directory: Path, kind: str, figures: Mapping[str, Any], **facts: Any) -> dict[str, Any]:
    """A sealed directory with its figures and a plot, unless it is there already; its output as a command writes it."""
    from service.contract.artifact import publish, seal, verify

    if not directory.exists():
        draft = directory.with_name(f".draft-{directory.name}")
        draft.mkdir(parents=True, exist_ok=True)
        (draft / "figures.json").write_text(json.dumps(figures))
        (draft / "roc.png").write_bytes(b"\x89PNG\r\n\x1a\n")
        seal(draft, {"kind": kind, "version": directory.name, **facts})
        publish(draft, directory)
    return {**verify(directory), "directory": str(directory)}


def figures_of(directory: str) -> dict[str, Any]:
    found = Path(directory, "figures.json")
    return dict(json.loads(found.read_text())) if found.exists() else POLICY  # the shipped policy has none


async def answer(command: str, words: Sequence[str], plan: Mapping[str, Any]) -> dict[str, Any]:
    option = dict(pairwise(words))
    digest = hashlib.sha256(json.dumps([w for w in words if "/" not in w]).encode()).hexdigest()[:8]
    changed = plan.get("figures", {})
    if command == "snapshot":
        begin = date.fromisoformat(option["--from"])
        days = [str(begin + timedelta(days=n)) for n in range((date.fromisoformat(option["--to"]) - begin).days)]
        shown = {day: 10 for day in days if day not in plan.get("empty", ())}
        return made(Path(option["--output"]), "snapshot", {}, counts={"impressions": shown, "clicks": shown})
    if command == "retrieval build":
        figures = {**BUILD, **changed}
        place = Path(option["--destination"], f"cor-{digest}")
        return made(place, "cor", figures, evaluation={"methods": {"cor": figures}})
    if command == "ctr train":
        figures = {**PREDICTOR, **changed}
        place = Path(option["--destination"], f"ctr-{option['--task']}-{digest}")
        facts = {"task": option["--task"], "evaluation": {"methods": {"nextquery": figures}}}
        return made(place, "ctr", figures, **facts)
    if command in ("train align", "train ppo"):
        output = made(Path(option["--output"]), "policy", POLICY | plan.get("served", {}))
        return {**output, "rounds": [], "metrics": {**ALIGNED, **changed}}
    if command == "ctr evaluate":
        return {"methods": {"nextquery": figures_of(words[2])}}
    if command == "train evaluate":
        return figures_of(words[2])
    if command == "experiments decide":
        return {"decided": [], **plan.get("output", {})}
    if command == "experiments try":
        return {"experiment": f"try-{words[2]}", **plan.get("output", {})}
    if command == "models register":
        return {"version": Path(words[2]).name}
    return await promoted(command, Path(words[2]), option)


async def promoted(command: str, directory: Path, option: Mapping[str, str]) -> dict[str, Any]:
    from service.contract import registry
    from service.contract.database import create
    from service.contract.fence import parse_fence
    from service.contract.settings import load_settings

    settings = load_settings()
    database = create(settings.resolved_database_url(), settings.timeouts)
    kind = {"retrieval publish": "cor", "ctr publish": "ctr", "models promote": "policy"}[command]
    task = json.loads((directory / "manifest.json").read_text()).get("task") or option.get("--task", "*")
    figures = figures_of(str(directory))
    try:
        model = await registry.register(
            database, version=directory.name, kind=kind, task=task, directory=directory, metrics=figures
        )
        fence, revision = parse_fence(option["--fence"]), int(option["--expected-revision"])
        await registry.put_in_front(database, model, expected_revision=revision, fence=fence)
    finally:
        await database.dispose()
    return {"version": directory.name, "directory": str(directory), "promoted": True}


def begin(words: Sequence[str]) -> tuple[str, Path]:
    """Note the call; the command, and the file that holds it while it is there."""
    place = Path(os.environ["STUB_DIR"])
    command = words[0] if words[0] == "snapshot" else " ".join(words[:2])
    with (place / "calls.jsonl").open("a") as calls:
        calls.write(json.dumps({"command": command, "words": list(words), "pid": os.getpid()}) + "\n")
    return command, place / f"hold {command}"


def plan_of(command: str) -> dict[str, Any]:
    file = Path(os.environ["STUB_DIR"], "plan.json")
    return dict(json.loads(file.read_text()).get(command, {})) if file.exists() else {}


async def end(command: str, words: Sequence[str]) -> tuple[int, dict[str, Any] | None, str]:
    """Exit code, output, and what is said on stderr."""
    plan = plan_of(command)
    if "exit" in plan:
        return int(plan["exit"]), None, plan["say"]
    try:
        return 0, await answer(command, words, plan), ""
    except Exception as error:
        return 2, None, str(error)


def main() -> int:
    words = sys.argv[1:]
    command, held = begin(words)
    ends = time.monotonic() + _HOLD_S
    while held.exists() and time.monotonic() < ends:
        time.sleep(0.02)
    code, output, said = asyncio.run(end(command, words))
    print(json.dumps(output) if output is not None else "")
    print(said, end="", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
