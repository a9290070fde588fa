import json
import os
import subprocess
import sys

import pytest

from service.contract.policy import seal_policy
from service.contract.tokenizer import TextFormat
from tests.tiny_models import make_tokenizer


@pytest.fixture
def ask(tmp_path):
    """Runs one command on a data directory of its own; returns exit code, stdout and stderr."""
    environment = {**os.environ, "NEXTQUERY_DATA_DIR": str(tmp_path / "data"), "NEXTQUERY_DATABASE_URL": ""}

    def run(*words: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [sys.executable, "-m", "service", *words], capture_output=True, text=True, env=environment
        )
        return done.returncode, done.stdout, done.stderr

    return run


def make_policy(directory, version):
    directory.mkdir()
    make_tokenizer(directory)
    seal_policy(directory, version=version, text_format=TextFormat(separator="<sep>", separator_is_token=True))


def test_checking_a_database_that_was_never_migrated_says_how_to_migrate_it(ask):
    code, out, err = ask("db", "check")

    assert (code, out) == (2, "")
    assert "Run `nextquery db upgrade`" in err
    assert "Traceback" not in err


def test_a_database_is_sound_after_an_upgrade_and_upgrading_twice_changes_nothing(ask):
    first = ask("db", "upgrade", "--json")
    second = ask("db", "upgrade", "--json")
    check = ask("db", "check", "--json")

    assert first[0] == second[0] == check[0] == 0
    assert json.loads(first[1]) == json.loads(second[1]) == json.loads(check[1])


def test_a_fresh_registry_lists_no_models_and_an_unknown_one_is_a_sentence(ask):
    ask("db", "upgrade")

    code, out, _ = ask("models", "list", "--json")
    unknown_code, _, err = ask("models", "show", "no-such-version")

    assert (code, json.loads(out)) == (0, [])
    assert unknown_code == 2
    assert "no-such-version" in err


def test_a_data_directory_that_cannot_be_made_is_a_sentence(ask, tmp_path):
    (tmp_path / "data").touch()

    code, _, err = ask("db", "check")

    assert code == 2
    assert "NEXTQUERY_DATA_DIR" in err
    assert "Traceback" not in err


def test_a_policy_is_promoted_by_its_directory_and_rolled_back(ask, tmp_path):
    for version in ("first", "second"):
        make_policy(tmp_path / version, version)
    ask("db", "upgrade")

    promoted = [ask("models", "promote", str(tmp_path / version), "--json") for version in ("first", "second")]
    back = ask("models", "rollback", "--json")
    by_version = ask("models", "promote", "second")

    assert [code for code, _, _ in (*promoted, back, by_version)] == [0] * 4
    assert [json.loads(out)["version"] for _, out, _ in (*promoted, back)] == ["first", "second", "first"]
    assert by_version[1].strip() == "second is the policy for *, in the place of first."


def test_a_stale_job_or_a_second_thought_too_late_is_a_sentence(ask, tmp_path):
    for version in ("first", "second"):
        make_policy(tmp_path / version, version)
    ask("db", "upgrade")
    ask("models", "promote", str(tmp_path / "first"))

    late = ask("models", "promote", str(tmp_path / "second"), "--expected-revision", "0")
    stale = ask("models", "promote", str(tmp_path / "second"), "--fence", "nightly:7")
    unknown = ask("models", "promote", "no-such-version")
    none_before = ask("models", "rollback")

    assert [code for code, _, _ in (late, stale, unknown, none_before)] == [2] * 4
    assert "somebody else changed it" in late[2]
    assert "lost its lock" in stale[2]
    assert "no-such-version" in unknown[2]
    assert "no earlier policy" in none_before[2]
