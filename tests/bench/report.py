"""What every benchmark prints, and the cells it keeps so that a second run only measures what is missing.

It knows nothing about what is measured.
"""

import argparse
import hashlib
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
_ROWS = ROOT / "tests" / "bench" / "rows"
_RESUMES_S = 12 * 3600
_COMPARE = {">=": operator.ge, "<=": operator.le, ">": operator.gt}


@dataclass(frozen=True)
class Bar:
    """A figure's bar, such as `>= 0.95`; without a sign the figure is only told."""

    name: str
    unit: str
    sign: str = ""
    limit: float = 0.0
    digits: int = 4

    def judge(self, value: float | None) -> dict[str, Any]:
        """The figure as it is printed; one that was not measured has no value and does not hold."""
        holds = value is not None and bool(_COMPARE[self.sign](value, self.limit)) if self.sign else None
        return {
            "name": self.name,
            "value": None if value is None else round(value, self.digits),
            "unit": self.unit,
            "bar": f"{self.sign} {self.limit:g}" if self.sign else None,
            "holds": holds,
        }


@dataclass(frozen=True)
class Cell:
    """One thing to measure: it gives some of the figures, by name.

    `of`: files and folders that it measures; what was measured counts until one of them changes. Without any it counts
    for this commit alone. `about_s`: seconds that it takes, where that is long. `stored`: what was measured is kept in the
    repository, with commit and machine, so that nobody who has the same files must measure it again.
    """

    name: str
    measure: Callable[[], dict[str, float]]
    of: tuple[str, ...] = ()
    about_s: float = 0.0
    stored: bool = False


def main(
    bench: str,
    bars: list[Bar],
    cells: list[Cell],
    *,
    within_s: float = float("inf"),
    summary: Callable[[dict[str, float]], dict[str, float]] = lambda values: {},
) -> int:
    """Measure what is not measured yet, print all figures; 0 when every bar holds.

    Without `--full` no cell is begun that would not end `within_s`; what it gives is then not measured, and says so.
    `summary`: figures that follow from those of the cells.
    """
    parser = argparse.ArgumentParser(prog=f"python -m tests.bench.{bench}")
    parser.add_argument("--json", action="store_true", help="print JSON alone")
    parser.add_argument("--full", action="store_true", help="measure every cell again; a run that was cut off resumes")
    parser.add_argument("--only", nargs="*", help="cells to measure: " + ", ".join(cell.name for cell in cells))
    arguments = parser.parse_args()
    values: dict[str, float] = {}
    ends = time.monotonic() + within_s
    for cell in cells:
        if arguments.only and cell.name not in arguments.only:
            continue
        if arguments.full or _kept(bench, cell, fresh=False) or time.monotonic() + cell.about_s < ends:
            values |= measured(bench, cell, fresh=arguments.full)
        else:
            print(f"{bench}: {cell.name} takes longer than is left; --full measures it.", file=sys.stderr, flush=True)
    values |= summary(values)
    wanted = bars if not arguments.only else [bar for bar in bars if bar.name in values]
    figures = [bar.judge(values.get(bar.name)) for bar in wanted]
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


def measured(bench: str, cell: Cell, *, fresh: bool = False) -> dict[str, float]:
    """What a cell gives, measured where it is not kept from an earlier run."""
    if path := _kept(bench, cell, fresh=fresh):
        kept = json.loads(path.read_text())
        return dict(kept.get("figures", kept))
    print(f"{bench}: measuring {cell.name} ...", file=sys.stderr, flush=True)
    started, path = time.monotonic(), _file(bench, cell)
    found = cell.measure()
    print(f"{bench}: {cell.name} took {time.monotonic() - started:.0f} s: {found}", file=sys.stderr, flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cell.stored:
        path.write_text(json.dumps(found))
        return found
    for older in path.parent.glob(f"*-{cell.name}.json"):
        older.unlink()
    row = {"commit": commit(), "machine": machine(), "figures": {key: round(value, 8) for key, value in found.items()}}
    path.write_text(json.dumps(row, indent=1) + "\n")
    return dict(row["figures"])


def _kept(bench: str, cell: Cell, *, fresh: bool) -> Path | None:
    """Where an earlier run left what it measured, if it still counts; a fresh run takes what its last hours left."""
    path = _file(bench, cell)
    recent = path.is_file() and time.time() - path.stat().st_mtime < _RESUMES_S
    return path if path.is_file() and "+" not in path.name and (recent or cell.stored or not fresh) else None


def _file(bench: str, cell: Cell) -> Path:
    version = version_of(cell.of) if cell.of else commit()
    place = _ROWS if cell.stored and "+" not in version else _CELLS
    return place / bench / f"{version}-{cell.name}.json"


def version_of(paths: tuple[str, ...]) -> str:
    """A hash of what git has under `paths`, with `+` when one of them differs from it."""
    trees = [_git("rev-parse", f"HEAD:{path}") for path in paths]
    dirty = _git("status", "--porcelain", "--untracked-files=no", "--", *paths)
    return hashlib.sha256("".join(trees).encode()).hexdigest()[:12] + ("+" if dirty else "")


def _table(result: dict[str, Any]) -> str:
    lines = [f"{result['bench']} at {result['commit']} on {result['machine']}"]
    for figure in result["figures"]:
        mark = {True: "holds", False: "FAILS", None: ""}[figure["holds"]]
        bar = figure["bar"] or ""
        value = "not run" if figure["value"] is None else f"{figure['value']:g}"
        lines.append(f"  {figure['name']:<36} {value:>10} {figure['unit']:<8} {bar:<10} {mark}".rstrip())
    return "\n".join(lines)


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).is_file() else []


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
