"""The audience uses a running service as a product would, and the log says what the tally says."""

import json
import subprocess
import sys
from pathlib import Path

from tests.service_process import ROOT, free_port, rows, running, scripted_policy

_COMMAND = [sys.executable, "-m", "service.contract.command_line", "simulate"]


def simulate(port: int, *words: str) -> subprocess.CompletedProcess[str]:
    address = ["--url", f"http://127.0.0.1:{port}"]
    return subprocess.run([*_COMMAND, *address, *words], capture_output=True, text=True, cwd=ROOT, check=False)


def test_people_are_served_click_and_type_and_all_of_it_is_logged(tmp_path: Path) -> None:
    policy = scripted_policy(tmp_path / "policy")
    with running(tmp_path / "data", until="/readyz", engine="scripted", policy=str(policy)) as service:
        done = simulate(service.port, "--people", "40", "--days", "2", "--day-s", "2", "--json")

        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        impressions = rows(service.database_url, "impressions")
        events = rows(service.database_url, "clicks")
    assert told["failures"] == 0
    assert told["visits"] == 80
    assert len(impressions) == sum(count for name, count in told.items() if name.startswith("served by"))
    clicked = {event["impression_id"] for event in events if event["kind"] == "click"}
    assert round(len(clicked) / told["lists"], 4) == told["simulated CTR"]
    assert {event["kind"] for event in events} >= {"seen", "submit"}


def test_without_a_service_it_says_how_to_start_one() -> None:
    done = simulate(free_port(), "--people", "1", "--days", "1")

    assert done.returncode == 2
    assert "Start one with `make run`" in done.stderr
