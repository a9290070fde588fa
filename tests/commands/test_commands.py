import json
import os
import subprocess
import sys

import pytest


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
