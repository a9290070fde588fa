"""Writes the tree of the README from the first lines of module docstrings.

It knows no module by name. `python -m tests.architecture.readme_tree --write` puts the tree into README.md.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("service", "trainer", "ctr", "retrieval", "migrations")
FOLDERS = {
    "deploy": "Set-up, locked package lists, cron and Kubernetes files, settings reference, decisions, the shipped policy.",
    "tests": "What must stay true; the folders mirror the packages.",
}
START, END = "<!-- tree -->", "<!-- /tree -->"
_WIDTH = 28


def tree() -> str:
    """The fenced block: packages with their modules, then the folders that hold no code of the product."""
    lines = [line for package in PACKAGES for line in _package(ROOT / package, depth=0)]
    lines += [_line(f"{name}/", purpose, depth=0) for name, purpose in FOLDERS.items()]
    return "\n".join(["```text", *lines, "```"])


def written(readme: str) -> str:
    """The block that stands in the README now; empty when its two marks are missing."""
    if START not in readme or END not in readme:
        return ""
    return readme.split(START, 1)[1].split(END, 1)[0].strip()


def replaced(readme: str) -> str:
    """The README with a fresh tree between its marks."""
    before, rest = readme.split(START, 1)
    return f"{before}{START}\n\n{tree()}\n\n{END}{rest.split(END, 1)[1]}"


def _package(folder: Path, depth: int) -> Iterator[str]:
    yield _line(f"{folder.name}/", _purpose(folder / "__init__.py"), depth)
    for module in sorted(folder.glob("*.py")):
        if module.name != "__init__.py":
            yield _line(module.name, _purpose(module), depth + 1)
    for inner in sorted(folder.iterdir()):
        if (inner / "__init__.py").is_file():
            yield from _package(inner, depth + 1)


def _purpose(module: Path) -> str:
    docstring = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) if module.is_file() else None
    return docstring.splitlines()[0] if docstring else ""


def _line(name: str, purpose: str, depth: int) -> str:
    return f"{'  ' * depth + name:<{_WIDTH}}{purpose}".rstrip()


if __name__ == "__main__":
    if "--write" in sys.argv:
        (ROOT / "README.md").write_text(replaced((ROOT / "README.md").read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(tree())
