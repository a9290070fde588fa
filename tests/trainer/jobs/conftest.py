"""Fixtures of the tests of jobs."""

from pathlib import Path

import pytest

from tests.trainer.jobs.night import Night


@pytest.fixture
def night(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Night:
    """A night on an empty database, once of each kind; its settings are this process's environment too."""
    made = Night(tmp_path / "night", database_url)
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    return made
