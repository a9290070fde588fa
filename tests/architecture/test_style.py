"""The rules of the house that a program can check."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("service", "trainer", "ctr", "retrieval", "migrations")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
MOST_LINES = 400
MOST_LINES_OF_A_TEST = 600  # many small functions, read one at a time
VAGUE = {"utils", "util", "helpers", "helper", "common", "base", "manager", "misc"}
MAY_PRINT = {"__main__.py", "commands.py", "settings_reference.py"}


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_there_are_modules_to_check():
    assert len(MODULES) > 20
    assert len(TESTS) > 10


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_a_module_says_what_it_is_for(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))

    docstring = ast.get_docstring(tree) or ""

    assert docstring.split("\n")[0].strip().endswith((".", "?", "!")), "The first line is a sentence: its purpose."


@pytest.mark.parametrize("path", [*MODULES, *TESTS], ids=_name)
def test_a_module_fits_into_a_head(path):
    lines = path.read_text(encoding="utf-8").count("\n")

    assert lines <= (MOST_LINES if path in MODULES else MOST_LINES_OF_A_TEST)


@pytest.mark.parametrize("path", [*MODULES, *TESTS], ids=_name)
def test_a_module_has_a_name_that_says_something(path):
    assert path.stem not in VAGUE


@pytest.mark.parametrize("path", [path for path in MODULES if path.name not in MAY_PRINT], ids=_name)
def test_a_module_below_the_command_line_does_not_write_to_stdout(path):
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]

    prints = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]
    to_stdout = [call.lineno for call in prints if all(keyword.arg != "file" for keyword in call.keywords)]

    assert to_stdout == []
