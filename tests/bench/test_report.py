"""What every benchmark does with its cells."""

import json
import sys

import pytest

from tests.bench import report
from tests.bench.report import Bar, Cell

BARS = [Bar("quick", "s"), Bar("endless", "s")]


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(report, "_CELLS", tmp_path)

    def with_words(*words):
        monkeypatch.setattr(sys, "argv", ["bench", "--json", *words])
        cells = [
            Cell("first", lambda: {"quick": 1.0}),
            Cell("second", lambda: {"endless": 2.0}, about_s=float("inf")),
        ]
        report.main("of_a_test", BARS, cells, within_s=60)
        return {each["name"]: each["value"] for each in json.loads(capsys.readouterr().out)["figures"]}

    return with_words


def test_the_short_form_leaves_out_what_takes_too_long(run):
    assert run() == {"quick": 1.0, "endless": None}


def test_the_full_form_measures_everything_however_long_it_takes(run):
    assert run("--full") == {"quick": 1.0, "endless": 2.0}
