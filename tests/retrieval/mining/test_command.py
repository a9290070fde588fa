"""`nextquery retrieval mine`: a snapshot goes in, triples and a report come out, mistakes are sentences."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from service.contract.artifact import verify
from tests.retrieval.mining.logs import snapshot, walk

Ask = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    """Runs `retrieval mine` on a snapshot of five people; returns exit code, stdout and stderr."""
    snapshot(tmp_path / "log", walk("rice", "pasta", people=["ann", "bob", "cleo", "dan", "eve"]))

    def run(*words: str, log: str = "log") -> tuple[int, str, str]:
        places = ["--snapshot", str(tmp_path / log), "--output", str(tmp_path / "deep" / "triples")]
        command = [sys.executable, "-m", "service", "retrieval", "mine", *places, *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    return run


def test_it_writes_sealed_triples_and_tells_what_it_met(ask: Ask, tmp_path: Path) -> None:
    code, out, err = ask()

    assert (code, err) == (0, "")
    assert "Triples written: 1, of 2 queries; of these, 2 may be shown to others." in out
    assert verify(tmp_path / "deep" / "triples")["rules"]["k"] == 5


def test_it_reports_as_json_and_uses_its_cache(ask: Ask, tmp_path: Path) -> None:
    first = ask("--cache", str(tmp_path / "cache"), "--json", "--k", "6")
    second = ask("--cache", str(tmp_path / "cache"), "--json")

    reports = [json.loads(out) for _, out, _ in (first, second)]
    assert [report["triples"] for report in reports] == [0, 1]
    assert [report["days_from_cache"] for report in reports] == [0, 1]
    assert reports[0]["rules"]["k"] == 6


@pytest.mark.parametrize(
    ("words", "log", "sentence"), [(["--k", "0"], "log", "k is 0"), ([], "nothing", "has no manifest.json")]
)
def test_a_mistake_is_a_sentence(ask: Ask, words: list[str], log: str, sentence: str) -> None:
    code, out, err = ask(*words, log=log)

    assert (code, out) == (2, "")
    assert sentence in err
    assert "Traceback" not in err
