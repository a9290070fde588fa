"""Imports fall downwards, and the floor is light."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("service", "trainer", "ctr", "retrieval")
DOORS = {"ctr": "predictor", "retrieval": "searcher"}
HEAVY = {"torch", "vllm", "faiss", "fastapi", "redis"}


def test_the_import_contracts_of_pyproject_hold():
    code = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"

    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)

    assert done.returncode == 0, done.stdout + done.stderr


def test_importing_the_whole_floor_loads_none_of_the_heavy_packages():
    floor = [_module(path) for path in sorted((ROOT / "service" / "contract").rglob("*.py"))]
    code = (
        f"import importlib, json, sys; [importlib.import_module(m) for m in {floor}]; print(json.dumps([*sys.modules]))"
    )

    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert len(floor) > 10
    assert HEAVY & set(json.loads(done.stdout)) == set()


@pytest.mark.parametrize("package", DOORS)
def test_others_enter_the_library_only_by_its_door(package):
    door = f"{package}.{DOORS[package]}"

    trespassers = [
        f"{path.relative_to(ROOT)} imports {name}"
        for other in PACKAGES
        if other != package
        for path in sorted((ROOT / other).rglob("*.py"))
        for name in _imported(path)
        if (name == package or name.startswith(f"{package}.")) and not f"{name}.".startswith(f"{door}.")
    ]

    assert trespassers == []


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
