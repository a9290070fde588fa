"""Asking for help is quick, and a broken command harms no other."""

import json
import os
import subprocess
import sys
from importlib.metadata import entry_points

import pytest

from service.contract.command_line import GROUP

HEAVY = {
    "duckdb",
    "faiss",
    "pyarrow",
    "sentence_transformers",
    "torch",
    "fastapi",
    "sqlalchemy",
    "transformers",
    "vllm",
    "trl",
    "datasets",
    "alembic",
}
MOST_CPU_S = 4.0
COMMANDS = sorted(entry.name for entry in entry_points(group=GROUP))
INNER = [
    ["db", "upgrade"],
    ["db", "check"],
    ["models", "list"],
    ["models", "show"],
    ["retrieval", "build"],
    ["ctr", "train"],
    ["job", "run"],
]
ASK = """
import json, sys, time
sys.argv = ["nextquery", *json.loads(sys.argv[1])]
from service.contract.command_line import main
code = 0
try:
    main()
except SystemExit as end:
    code = end.code or 0
print(json.dumps([code, time.process_time(), sorted(sys.modules)]), file=sys.stderr)
"""


def _ask(*words: str, **environment: str) -> tuple[int, float, set[str], str]:
    done = subprocess.run(
        [sys.executable, "-c", ASK, json.dumps(words)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    code, cpu_s, modules = json.loads(done.stderr.splitlines()[-1])
    return code, cpu_s, set(modules), done.stdout + done.stderr


def test_the_commands_of_the_issue_are_announced():
    assert {"serve", "db", "train", "models", "doctor", "snapshot", "import", "retrieval", "job"} <= set(COMMANDS)


@pytest.mark.parametrize("words", [[], *([name] for name in COMMANDS), *INNER], ids=" ".join)
def test_help_is_quick_and_imports_nothing_heavy(words):
    code, cpu_s, modules, output = _ask(*words, "--help")

    assert code == 0
    assert "Usage:" in output
    assert modules & HEAVY == set()
    assert cpu_s < MOST_CPU_S


def test_the_help_of_the_root_finds_every_command_sound():
    _, _, _, output = _ask("--help")

    assert "cannot be loaded" not in output
    assert all(name in output for name in COMMANDS)


def test_the_version_is_that_of_the_installed_package():
    from importlib.metadata import version

    code, _, _, output = _ask("--version")

    assert code == 0
    assert output.splitlines()[0] == version("nextquery")


def test_a_mistake_that_we_recognise_ends_with_a_sentence_and_code_2():
    code, _, _, output = _ask("db", "check", NEXTQUERY_PORT="not-a-number")

    assert code == 2
    assert "NEXTQUERY_PORT" in output
    assert "not-a-number" not in output
    assert "Traceback" not in output


def test_a_broken_command_does_not_harm_the_others(tmp_path):
    _announce(tmp_path, "broken = a_module_that_is_not_there:app")

    help_code, _, _, help_text = _ask("--help", PYTHONPATH=str(tmp_path))
    other_code, _, _, _ = _ask("db", "--help", PYTHONPATH=str(tmp_path))
    code, _, _, output = _ask("broken", PYTHONPATH=str(tmp_path))

    assert (help_code, other_code) == (0, 0)
    assert "cannot be loaded" in help_text
    assert code == 2
    assert "`nextquery broken` cannot be loaded" in output


def _announce(folder, line: str) -> None:
    metadata = folder / "broken-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[{GROUP}]\n{line}\n")
