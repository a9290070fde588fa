"""Rows of the full alignment table: one small JSON file a cell, in the repository, which says what it was measured with.

It knows nothing about what is measured.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from service.contract.artifact import verify
from service.contract.settings import STARTER
from tests.bench.report import ROOT, commit, machine, version_of
from trainer.audience.constants import FIRST

ROWS = ROOT / "tests" / "bench" / "rows" / "alignment"


def row(name: str, facts: Mapping[str, Any], of: tuple[str, ...], measure: Callable[[], dict[str, float]]) -> None:
    """Measure and store a row, unless a fresh one is there. `facts`: seed, sizes; `of`: files and folders it measures."""
    if fresh(name, facts, of) is not None:
        return
    hashes = _hashes(facts, of)
    if "+" in hashes["code"]:
        raise SystemExit(f"The row {name} would name code that nobody has: commit what was changed of {', '.join(of)}.")
    figures = {key: round(value, 6) for key, value in measure().items()}
    ROWS.mkdir(parents=True, exist_ok=True)
    content = {"name": name, **hashes, "commit": commit(), "machine": machine(), "figures": figures}
    (ROWS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")


def fresh(name: str, facts: Mapping[str, Any], of: tuple[str, ...]) -> dict[str, float] | None:
    """The figures of a stored row; None where there is none, or where it was measured with other code, data or seed."""
    path = ROWS / f"{name}.json"
    if not path.is_file():
        return None
    stored = json.loads(path.read_text())
    hashes = _hashes(facts, of)
    return dict(stored["figures"]) if all(stored.get(key) == value for key, value in hashes.items()) else None


def key_of(facts: Mapping[str, Any], of: tuple[str, ...]) -> str:
    """The hash of the code that a row would be measured with."""
    return str(_hashes(facts, of)["code"])


def _hashes(facts: Mapping[str, Any], of: tuple[str, ...]) -> dict[str, Any]:
    policy = verify(STARTER)
    data = {"audience": FIRST.digest(), "policy": policy["version"], "weights": policy["files"]["model.safetensors"]}
    return {"code": version_of(of), "data": data, "facts": dict(facts)}


def work_of(name: str, facts: Mapping[str, Any], of: tuple[str, ...]) -> Path:
    """Where the cell keeps what a killed run found."""
    return ROOT / ".bench" / "alignment-work" / f"{name}-{key_of(facts, of)}"
