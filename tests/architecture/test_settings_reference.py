"""The settings reference says what the settings classes say."""

import pytest

from service.contract.settings import Settings
from service.contract.settings_reference import FILES, entries


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_written_reference_is_up_to_date(path):
    text = path.read_text(encoding="utf-8")

    assert text == FILES[path](), "Run `python -m service.contract.settings_reference`."


def test_every_variable_has_a_meaning():
    unexplained = [entry.variable for entry in entries() if not entry.meaning]

    assert unexplained == []


def test_the_defaults_as_written_are_the_defaults(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for entry in entries():
        monkeypatch.delenv(entry.variable, raising=False)
    plain = Settings()
    for entry in entries():
        monkeypatch.setenv(entry.variable, entry.default)

    assert Settings() == plain
