import json
import socket
import subprocess
import sys

import pytest

from service import doctor
from service.contract.database import upgrade
from service.contract.settings import Settings


@pytest.fixture
def settings(tmp_path):
    return Settings(data_dir=tmp_path / "data", port=0, engine="off")


def test_a_check_that_breaks_is_a_finding_and_stops_no_other(monkeypatch, settings):
    def check_broken(_):
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(doctor, "CHECKS", (check_broken, doctor.check_python))

    broken, python = doctor.examine_all(settings)

    assert (broken.name, broken.state) == ("broken", "fail")
    assert "ZeroDivisionError" in broken.finding
    assert python.state == "ok"


def test_this_environment_has_every_package_and_none_that_must_not_be(settings):
    findings = [*doctor.check_packages(settings), *doctor.check_never_installed(settings)]

    assert {finding.name: finding.state for finding in findings} == {
        "packages": "ok",
        "packages for tests": "ok",
        "torchvision": "ok",
    }


def test_a_database_that_is_not_there_yet_is_only_a_warning(settings):
    (finding,) = doctor.check_database(settings)

    assert finding.state == "warn"
    assert "make run" in finding.remedy


def test_a_database_without_tables_fails_and_its_remedy_mends_it(settings):
    settings.data_dir.mkdir()
    (settings.data_dir / "nextquery.db").touch()

    (before,) = doctor.check_database(settings)
    upgrade(settings.resolved_database_url(), settings.timeouts)
    (after,) = doctor.check_database(settings)

    assert before.state == "fail"
    assert "nextquery db upgrade" in before.remedy
    assert after.state == "ok"


def test_a_data_directory_that_cannot_be_written_fails(tmp_path):
    (tmp_path / "file").touch()

    (finding,) = doctor.check_data_dir(Settings(data_dir=tmp_path / "file" / "data"))

    assert finding.state == "fail"
    assert "NEXTQUERY_DATA_DIR" in finding.remedy


def test_looking_at_the_data_directory_does_not_create_it(settings):
    (finding,) = doctor.check_data_dir(settings)

    assert finding.state == "ok"
    assert not settings.data_dir.exists()


def test_a_port_in_use_is_a_warning():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        (finding,) = doctor.check_port(Settings(port=taken.getsockname()[1]))

    assert finding.state == "warn"
    assert "NEXTQUERY_PORT" in finding.remedy


def test_an_engine_that_is_switched_off_needs_no_vllm(settings):
    (finding,) = doctor.check_vllm(settings)

    assert finding.state == "ok"


@pytest.mark.slow
def test_the_command_reports_every_check_as_json_and_fails_only_if_one_fails(tmp_path):
    command = [sys.executable, "-m", "service", "doctor", "--json"]
    environment = {"PATH": "/usr/bin:/bin", "NEXTQUERY_DATA_DIR": str(tmp_path), "NEXTQUERY_PORT": "0"}

    done = subprocess.run(command, capture_output=True, text=True, env=environment)

    findings = json.loads(done.stdout)
    assert {"python", "packages", "torch", "gpu", "vllm", "faiss", "database", "starter policy"} <= {
        finding["name"] for finding in findings
    }
    assert all(finding["remedy"] for finding in findings if finding["state"] != "ok")
    assert done.returncode == int(any(finding["state"] == "fail" for finding in findings))


def test_a_redis_that_is_set_and_away_fails_and_one_that_is_not_set_is_fine(settings):
    (unset,) = doctor.check_redis(settings)
    (away,) = doctor.check_redis(settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"}))

    assert (unset.state, away.state) == ("ok", "fail")
    assert "NEXTQUERY_REDIS_URL" in away.remedy
