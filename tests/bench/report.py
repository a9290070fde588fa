"""What every benchmark prints, and the cells it keeps so that a second run only measures what is missing.

It knows nothing about what is measured.
"""

import argparse
import json
import operator
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
_CELLS = ROOT / ".bench"
_COMPARE = {">=": operator.ge, "<=": operator.le, ">": operator.gt}


@dataclass(frozen=True)
class Bar:
    """A figure's bar, such as `>= 0.95`; without a sign the figure is only told."""

    name: str
    unit: str
    sign: str = ""
    limit: float = 0.0

    def judge(self, value: float) -> dict[str, Any]:
        """The figure as it is printed."""
        return {
            "name": self.name,
            "value": round(value, 4),
            "unit": self.unit,
            "bar": f"{self.sign} {self.limit:g}" if self.sign else None,
            "holds": bool(_COMPARE[self.sign](value, self.limit)) if self.sign else None,
        }


@dataclass(frozen=True)
class Cell:
    """One thing to measure: it gives some of the figures, by name."""

    name: str
    measure: Callable[[], dict[str, float]]


def main(bench: str, bars: list[Bar], cells: list[Cell]) -> int:
    """Measure what is not measured yet at this commit, print all figures; 0 when every bar holds."""
    parser = argparse.ArgumentParser(prog=f"python -m tests.bench.{bench}")
    parser.add_argument("--json", action="store_true", help="print JSON alone")
    parser.add_argument("--full", action="store_true", help="measure every cell again; a run that was cut off resumes")
    parser.add_argument("--only", nargs="*", help="cells to measure: " + ", ".join(cell.name for cell in cells))
    arguments = parser.parse_args()
    values: dict[str, float] = {}
    for cell in cells:
        if not arguments.only or cell.name in arguments.only:
            values |= _measured(bench, cell, fresh=arguments.full)
    figures = [bar.judge(values[bar.name]) for bar in bars if bar.name in values]
    result = {"bench": bench, "commit": commit(), "machine": machine(), "figures": figures}
    print(json.dumps(result, indent=2) if arguments.json else _table(result))
    return 0 if all(figure["holds"] is not False for figure in figures) else 1


def commit() -> str:
    """The commit that is measured, with `+` when the tree differs from it."""
    head = _git("rev-parse", "--short=12", "HEAD") or "none"
    return head + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")


def machine() -> str:
    """The machine in words: processor, cores, memory."""
    memory = next((int(x.split()[1]) for x in _lines("/proc/meminfo") if x.startswith("MemTotal")), 0)
    name = next((x.split(":", 1)[1].strip() for x in _lines("/proc/cpuinfo") if x.startswith("model name")), "")
    size = f"{_cores()} cores, {round(memory / 2**20)} GiB"
    return f"{name or platform.processor()}, {size}, Python {platform.python_version()}"


def _measured(bench: str, cell: Cell, *, fresh: bool) -> dict[str, float]:
    path = _CELLS / bench / f"{commit()}-{cell.name}.json"
    recent = path.is_file() and time.time() - path.stat().st_mtime < 3 * 3600
    if path.is_file() and "+" not in path.name and (recent or not fresh):
        return dict(json.loads(path.read_text()))
    print(f"{bench}: measuring {cell.name} ...", file=sys.stderr, flush=True)
    started = time.monotonic()
    found = cell.measure()
    print(f"{bench}: {cell.name} took {time.monotonic() - started:.0f} s: {found}", file=sys.stderr, flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found))
    return found


def _table(result: dict[str, Any]) -> str:
    lines = [f"{result['bench']} at {result['commit']} on {result['machine']}"]
    for figure in result["figures"]:
        mark = {True: "holds", False: "FAILS", None: ""}[figure["holds"]]
        bar = figure["bar"] or ""
        lines.append(f"  {figure['name']:<36} {figure['value']:>10g} {figure['unit']:<8} {bar:<10} {mark}".rstrip())
    return "\n".join(lines)


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).is_file() else []


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
