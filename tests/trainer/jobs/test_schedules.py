"""The files for cron and Kubernetes are what these read, and call commands that there are."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from tests.trainer.jobs.night import ROOT
from trainer.jobs.__main__ import app
from trainer.jobs.nightly import JOB, ORDER

CRON = ROOT / "deploy" / "cron" / "nextquery.cron"
_FIELDS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))  # minute, hour, day of the month, month, day of the week
_JOBS = {JOB, *ORDER}


def is_schedule(text: str) -> bool:
    """Whether these are five fields of numbers, ranges, steps and lists inside their bounds, as in crontab(5)."""
    fields = text.split()
    return len(fields) == 5 and all(
        _is_field(each, low, high)
        for field, (low, high) in zip(fields, _FIELDS, strict=True)
        for each in field.split(",")
    )


def _is_field(text: str, low: int, high: int) -> bool:
    found = re.fullmatch(r"(?:\*|(\d+)(?:-(\d+))?)(?:/([1-9]\d*))?", text)
    numbers = [int(each) for each in found.groups()[:2] if each] if found else [high + 1]
    return all(low <= number <= high for number in numbers) and numbers == sorted(numbers)


@pytest.mark.parametrize("text", ["15 2 * * *", "*/5 0-6/2 1,15 12 7"])
def test_a_schedule_is_known(text: str) -> None:
    assert is_schedule(text)


@pytest.mark.parametrize("text", ["", "15 2 * *", "60 2 * * *", "15 24 * * *", "1 1 0 * *", "5-1 * * * *", "x * * * *"])
def test_what_is_no_schedule_is_known_too(text: str) -> None:
    assert not is_schedule(text)


def cron_lines() -> list[str]:
    lines = [line for line in CRON.read_text().splitlines() if line.strip() and not line.startswith("#")]
    return [line for line in lines if not re.fullmatch(r"[A-Z_]+=\S+", line)]


def test_the_crontab_has_only_schedules_with_commands_that_there_are() -> None:
    lines = cron_lines()

    assert lines
    for line in lines:
        *schedule, command = line.split(maxsplit=5)
        assert is_schedule(" ".join(schedule))
        assert "%" not in command  # cron reads it as a new line
        assert known_job(shlex.split(command)) == JOB
    assert CRON.read_text().endswith("\n")  # cron ignores a last line without its end


def known_job(words: list[str]) -> str:
    """The job that `nextquery job run` is called for, when its options are known."""
    start = next(number for number, word in enumerate(words) if word.rsplit("/", 1)[-1] == "nextquery")
    job, run, name, *options = words[start + 1 :]
    help_text = CliRunner().invoke(app, ["run", "--help"], env={"COLUMNS": "200"}).stdout
    used = {word for word in options if word.startswith("--")}
    assert (job, run) == ("job", "run")
    assert name in _JOBS
    assert all(option in help_text for option in used)
    return name


def cron_jobs() -> list[tuple[str, dict[str, Any]]]:
    files = sorted((ROOT / "deploy" / "kubernetes").glob("*.yaml"))
    return [(file.name, document) for file in files for document in yaml.safe_load_all(file.read_text())]


@pytest.mark.parametrize(("name", "document"), cron_jobs(), ids=lambda value: value if isinstance(value, str) else "")
def test_a_cron_job_of_kubernetes_is_whole_and_calls_the_same_commands(name: str, document: dict[str, Any]) -> None:
    spec = document["spec"]
    job = spec["jobTemplate"]["spec"]
    pod = job["template"]["spec"]
    containers = [*pod.get("initContainers", ()), *pod["containers"]]

    assert (document["apiVersion"], document["kind"]) == ("batch/v1", "CronJob")
    assert re.fullmatch("[a-z][a-z0-9-]{0,51}", document["metadata"]["name"])
    assert is_schedule(spec["schedule"])
    assert spec["concurrencyPolicy"] == "Forbid"
    assert job["activeDeadlineSeconds"] > 0
    assert pod["restartPolicy"] in ("Never", "OnFailure")
    volumes = {volume["name"] for volume in pod["volumes"]}
    for container in containers:
        assert known_job(container["args"]) in _JOBS
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
        assert container["resources"]["limits"]["memory"]
        assert container["envFrom"] == [{"secretRef": {"name": "nextquery"}}]
    for rule in job.get("podFailurePolicy", {}).get("rules", ()):
        named = rule.get("onExitCodes", {}).get("containerName")
        assert named is None or named in {container["name"] for container in containers}


def test_the_stages_by_themselves_are_in_the_order_of_the_night() -> None:
    called = [
        known_job(container["args"])
        for name, document in cron_jobs()
        if name == "stages.yaml"
        for pod in [document["spec"]["jobTemplate"]["spec"]["template"]["spec"]]
        for container in (*pod.get("initContainers", ()), *pod["containers"])
    ]

    assert called == ["snapshot", "retrieval-build", "ctr-train", JOB]


def test_there_are_files_to_check() -> None:
    assert {name for name, _ in cron_jobs()} == {"nightly.yaml", "stages.yaml"}
    assert Path(CRON).is_file()
