"""From a snapshot to a served predictor by one command: it learns, it is calibrated, and what is bad is never registered."""

import asyncio
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from ctr.__main__ import app
from ctr.build import Build, BuildConfig, build
from ctr.dataset import DataConfig
from ctr.features import Variant
from ctr.publish import promote, refuse_useless, register
from service.contract import database, registry
from service.contract.artifact import MANIFEST, seal, verify
from service.contract.errors import ArtifactError, NextQueryError
from tests.conftest import TIMEOUTS
from tests.ctr.conftest import TINY
from tests.ctr.small_log import Shown, small_log, snapshot_of

FINE = {"auc": 0.7, "logloss": 0.3, "normalised_entropy": 0.9, "pcoc": 1.0, "ece": 0.01}


@pytest.fixture
def settings(tmp_path: Path, migrated_sqlite: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Settings of a fresh data directory with a database; returns the database's URL."""
    url = f"sqlite+aiosqlite:///{shutil.copy(migrated_sqlite, tmp_path / 'test.db')}"
    monkeypatch.setenv("NEXTQUERY_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("NEXTQUERY_DATABASE_URL", url)
    monkeypatch.chdir(tmp_path)
    return url


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def registered(url: str) -> tuple[list[str], list[str]]:
    """Versions and champions of the registry."""

    async def read() -> tuple[list[str], list[str]]:
        opened = database.create(url, TIMEOUTS)
        try:
            versions, champions = await registry.list_versions(opened), await registry.list_champions(opened)
        finally:
            await opened.dispose()
        return [each.version for each in versions], [each.version for each in champions]

    return asyncio.run(read())


def test_it_learns_what_the_position_does_not_say(built: Build) -> None:
    methods = verify(built.directory)["evaluation"]["methods"]

    assert set(methods) == {"nextquery", "position", "popularity", "hashed_words"}
    # Of 6,000 rows with 1,100 clicks the standard error of an AUC is about .01.
    assert methods["nextquery"]["auc"] > methods["position"]["auc"] + 0.08


@pytest.mark.slow
def test_down_sampling_is_undone(tmp_path: Path) -> None:
    # The tolerance: the calibration day has 500 lists with about 280 clicks and sets the mean, so it is known to
    # 1 / sqrt(280) = 6 %; the four test days have four times as many, 3 %; together 6.7 %, times 4.
    log = snapshot_of(tmp_path / "log", small_log(12, 500, seed=3))
    config = BuildConfig(work=tmp_path / "work", data=DataConfig(task="suggest", keep_share=0.2), train=TINY)

    made = build(log, tmp_path / "ctr", config, quiet=True)

    assert made.manifest["rows"]["train"] < 0.8 * 6 * 500 * 3
    assert made.manifest["evaluation"]["methods"]["nextquery"]["pcoc"] == pytest.approx(1.0, abs=4 * 0.067)
    # Before calibration already: the scale is right, so the offset is small. log(.2) is -1.6, and undone.
    assert abs(made.manifest["calibration"]["offset"]) < 0.8


def test_the_manifest_says_what_it_was_made_from(built: Build) -> None:
    manifest = verify(built.directory)

    assert manifest["kind"] == "ctr"
    assert manifest["version"] == built.directory.name
    assert manifest["task"] == "suggest"
    assert manifest["data"]["keep_share"] == 0.5
    assert {part: len(days) for part, days in manifest["days"].items()} == {
        "train": 6, "validation": 1, "calibration": 1, "test": 4,
    }  # fmt: skip
    assert {"README.md", "reliability.png", "roc.png", "metrics.json", "calibration.json"} <= set(manifest["files"])
    assert math.isfinite(manifest["training"]["validation_logloss"])


def test_no_text_of_a_person_stays_behind(built: Build) -> None:
    work = built.directory.parent.parent / "work"

    files = [path for path in [*built.directory.rglob("*"), *work.rglob("*")] if path.is_file()]

    assert files
    assert [path.name for path in files if b"about kyoto" in path.read_bytes()] == []
    assert list(work.iterdir()) == []


def test_the_same_inputs_are_not_trained_twice(built: Build, place_of_log: Path, tmp_path: Path) -> None:
    from service.contract.snapshot import open_snapshot

    config = BuildConfig(work=tmp_path, data=DataConfig(task="suggest", keep_share=0.5), train=TINY)

    again = build(open_snapshot(place_of_log), built.directory.parent, config, quiet=True)
    other = replace(config, train=replace(TINY, variant=Variant.PID, epochs=1))
    different = build(open_snapshot(place_of_log), tmp_path / "other", other, quiet=True)

    assert (again.version, again.is_new) == (built.version, False)
    assert different.version != built.version


def test_one_command_trains_and_puts_into_service(settings: str, tmp_path: Path) -> None:
    snapshot_of(tmp_path / "log", small_log(6, 150))

    done = run(
        "train", "--snapshot", tmp_path / "log", "--task", "suggest", "--size", "tiny", "--epochs", 6,
        "--batch-size", 32, "--learning-rate", 3e-3, "--promote", "--json",
    )  # fmt: skip

    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert registered(settings) == ([said["version"]], [said["version"]])
    assert Path(said["directory"]).parent == tmp_path / "data" / "ctr"


def test_publishing_registers_and_promotes_only_when_asked(settings: str, built: Build) -> None:
    first = run("publish", built.directory)
    after_first = registered(settings)
    second = run("publish", built.directory, "--promote")

    assert (first.exit_code, second.exit_code) == (0, 0), first.output + second.output
    assert after_first == ([built.version], [])
    assert registered(settings) == ([built.version], [built.version])


def test_evaluating_shows_a_table_of_methods_and_slices(settings: str, built: Build, place_of_log: Path) -> None:
    shown = run("evaluate", built.directory, "--snapshot", place_of_log)

    published = json.loads((built.directory / "metrics.json").read_text())["methods"]["nextquery"]
    assert shown.exit_code == 0, shown.output
    assert f"{published['auc']:.4f}" in shown.stdout
    assert "hashed_words" in shown.stdout
    assert "frequency head" in shown.stdout


LOG = small_log(6, 40)
ONE = [replace(LOG[0], clicked=(1,))]


@pytest.mark.parametrize(
    ("log", "options", "reason"),
    [
        ([replace(shown, clicked=()) for shown in LOG], [], "no click"),
        ([replace(shown, clicked=(1, 2, 3)) for shown in LOG], [], "only clicks"),
        (ONE, [], "on 1 days"),
        (LOG, ["--task", "dream"], "There is no such task"),
        (LOG, ["--variant", "best"], "There is no variant 'best'"),
        (LOG, ["--backbone", "gpt"], "There is no backbone"),
        (LOG, ["--tokenizer", "/nowhere/at/all"], "cannot be loaded"),
    ],
)
def test_what_cannot_teach_is_refused_with_the_reason_and_nothing_is_registered(
    settings: str, tmp_path: Path, log: list[Shown], options: list[str], reason: str
) -> None:
    snapshot_of(tmp_path / "log", log)

    done = run("train", "--snapshot", tmp_path / "log", "--task", "suggest", "--size", "tiny", *options)

    assert isinstance(done.exception, NextQueryError)
    assert reason in str(done.exception)
    assert registered(settings) == ([], [])
    assert not (tmp_path / "data" / "ctr").exists()
    assert list((tmp_path / "data").rglob("*.bin")) == []


@pytest.mark.parametrize(
    "figures", [{"auc": 0.5}, {"auc": 0.42}, {"auc": None}, {"logloss": math.nan}, {"pcoc": math.inf}]
)
def test_a_predictor_that_is_no_better_than_chance_or_not_finite_is_refused(figures: dict[str, Any]) -> None:
    refuse_useless(FINE, "fine")

    with pytest.raises(ArtifactError, match="cannot serve"):
        refuse_useless(FINE | figures, "poor")


async def test_what_is_refused_is_not_registered(migrated_sqlite: Path, built: Build, tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{shutil.copy(migrated_sqlite, tmp_path)}"
    opened = database.create(url, TIMEOUTS)
    poor = Path(shutil.copytree(built.directory, tmp_path / built.version))
    manifest = json.loads((poor / MANIFEST).read_text())
    manifest["evaluation"]["methods"]["nextquery"]["auc"] = 0.4
    manifest.pop("files")
    seal(poor, manifest)
    damaged = Path(shutil.copytree(built.directory, tmp_path / "damaged"))
    (damaged / "model.safetensors").write_bytes(b"")

    with pytest.raises(ArtifactError, match="no better than chance"):
        await promote(opened, poor)
    with pytest.raises(ArtifactError, match="SHA-256 differs"):
        await register(opened, damaged)

    assert await registry.list_versions(opened) == []
    await opened.dispose()
