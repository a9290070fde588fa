"""The command line of click prediction: train, evaluate, publish.

It knows how to ask and how to show; every command imports what it needs when it is called.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.contract.commands import load_settings, print_json, with_database

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from service.contract.settings import Settings

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Learn from the log what people click.")

AsJson = Annotated[bool, typer.Option("--json", help="Write JSON to stdout, and no progress.")]
SnapshotDir = Annotated[Path, typer.Option(help="The snapshot to learn from.")]
Task = Annotated[str, typer.Option(help="The task to predict clicks for; * is all.")]
Days = Annotated[int, typer.Option(help="Days of the window, of which the last three stop and calibrate.", min=3)]
TestDays = Annotated[int, typer.Option(help="Days after the window to measure on; at most a third of all.", min=1)]
Work = Annotated[Path | None, typer.Option(help="Holds runs that are under way.", show_default="in the data directory")]

ExpectedRevision = Annotated[
    int | None,
    typer.Option(min=0, hidden=True, help="Only over the champion of this revision; 0: only where there is none."),
]
FenceText = Annotated[str | None, typer.Option("--fence", hidden=True, help="Of the job that promotes: nightly:7.")]

_FIGURES = ("auc", "pair_accuracy", "logloss", "pcoc", "ece")


@app.callback()
def ctr() -> None:
    """Learn from the log what people click."""


@app.command()
def train(
    snapshot: SnapshotDir,
    task: Task,
    variant: Annotated[str, typer.Option(help="plain, pid or ctx: what a row holds besides the two queries.")] = "ctx",
    backbone: Annotated[str, typer.Option(help="From scratch: bert, roberta or albert.")] = "bert",
    size: Annotated[str, typer.Option(help="From scratch: tiny, small, medium or base.")] = "small",
    start: Annotated[str | None, typer.Option(help="A trained encoder by path or hub id, instead of scratch.")] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="By path or hub id.", show_default="of --start, else all-MiniLM-L6-v2")
    ] = None,
    days: Days = 14,
    test_days: TestDays = 7,
    keep_share: Annotated[float, typer.Option(help="Share of the lists without a click to keep.", min=0, max=1)] = 1.0,
    epochs: Annotated[int, typer.Option(min=1)] = 3,
    batch_size: Annotated[int, typer.Option(min=1)] = 256,
    learning_rate: Annotated[
        float | None, typer.Option(show_default="1e-3 from scratch, 3e-5 from a trained encoder")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of weights, order and dropout.")] = 1,
    cross_encoder: Annotated[
        bool, typer.Option("--cross-encoder", help="Compare with sentence-transformers' cross-encoder too.")
    ] = False,
    destination: Annotated[
        Path | None, typer.Option(help="Where predictors appear.", show_default="ctr in the data directory")
    ] = None,
    work: Work = None,
    promote: Annotated[bool, typer.Option("--promote/--no-promote", help="Put it into service.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train a click predictor on a snapshot, calibrate and measure it on later days, and register it."""
    settings = load_settings()
    from ctr.build import BuildConfig, build
    from ctr.dataset import DataConfig
    from ctr.train import TrainConfig
    from service.contract.snapshot import open_snapshot

    config = BuildConfig(
        work=work or settings.data_dir / "ctr-work",
        data=DataConfig(task=task, days=days, test_days=test_days, keep_share=keep_share),
        train=TrainConfig(
            variant=_variant(variant),
            backbone=backbone,
            size=size,
            start=start,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            seed=seed,
        ),
        tokenizer=tokenizer,
        cross_encoder=cross_encoder,
    )
    made = build(open_snapshot(snapshot), destination or settings.data_dir / "ctr", config, quiet=as_json)
    _record(settings, made.directory, promote=promote)
    if as_json:
        return print_json({**made.manifest, "directory": made.directory, "is_new": made.is_new, "promoted": promote})
    _print_evaluation(made.manifest["evaluation"])
    if skipped := sum(made.manifest["skipped"].values()):
        print(f"{skipped:,} lists were left out: they were erased, or cannot be read.")
    print(f"{made.version} is in {made.directory}" + (", and in service." if promote else ", and registered."))


@app.command()
def evaluate(
    directory: Annotated[Path, typer.Argument(help="A predictor, or the version of a registered one.")],
    snapshot: SnapshotDir,
    task: Annotated[str | None, typer.Option(help="The task to measure on.", show_default="its own")] = None,
    days: Days = 14,
    test_days: TestDays = 7,
    work: Work = None,
    as_json: AsJson = False,
) -> None:
    """Measure a predictor on the last days of a snapshot, beside baselines that learn from the days before."""
    settings = load_settings()
    from ctr.build import evaluate_published
    from ctr.dataset import DataConfig
    from service.contract.artifact import verify
    from service.contract.snapshot import open_snapshot

    place = _place(settings, directory)
    config = DataConfig(task=task or str(verify(place).get("task")), days=days, test_days=test_days)
    found = asdict(evaluate_published(open_snapshot(snapshot), place, config, work or settings.data_dir / "ctr-work"))
    if as_json:
        return print_json(found)
    _print_evaluation(found)


@app.command()
def publish(
    directory: Annotated[Path, typer.Argument(help="A predictor, or the version of a registered one.")],
    promote: Annotated[bool, typer.Option("--promote/--no-promote", help="Put it into service.")] = False,
    expected_revision: ExpectedRevision = None,
    fence: FenceText = None,
    as_json: AsJson = False,
) -> None:
    """Register a predictor, and with --promote put it into service."""
    settings = load_settings()
    place = _place(settings, directory)
    _record(settings, place, promote=promote, expected_revision=expected_revision, fence=fence)
    if as_json:
        return print_json({"version": place.name, "directory": place, "promoted": promote})
    print(f"{place.name} is {'in service' if promote else 'registered'}.")


def _record(
    settings: "Settings",
    directory: Path,
    *,
    promote: bool,
    expected_revision: int | None = None,
    fence: str | None = None,
) -> None:
    from ctr import publish as publishing
    from service.contract.fence import parse_fence

    job = parse_fence(fence) if fence else None

    async def put(database: "AsyncEngine") -> None:
        if promote:
            await publishing.promote(database, directory, expected_revision=expected_revision, fence=job)
        else:
            await publishing.register(database, directory)

    with_database(settings, put)


def _variant(name: str) -> Any:
    from ctr.features import Variant
    from service.contract.errors import ConfigurationError

    if name not in list(Variant):
        raise ConfigurationError(f"There is no variant {name!r}. The variants are {', '.join(Variant)}.")
    return Variant(name)


def _place(settings: "Settings", directory: Path) -> Path:
    return directory if directory.exists() else settings.data_dir / "ctr" / directory


def _print_evaluation(evaluation: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from ctr.evaluate import OURS

    methods = dict(sorted(evaluation["methods"].items(), key=lambda item: item[0] != OURS))  # ours first
    first = next(iter(methods.values()))
    title = f"{first['rows']:,} rows with {first['clicks']:,} clicks, on days after training"
    table = Table("figure", *methods, title=title, title_justify="left")
    for name in (*_FIGURES, "normalised_entropy", "gauc"):
        table.add_row(name.replace("_", " "), *(_cell(figures[name]) for figures in methods.values()))
    table.add_row("diff_ctr (eq. 9)", *(_cell(evaluation["diff_ctr"][method]) for method in methods))
    Console().print(table)
    if slices := evaluation.get("slices"):
        by_slice = Table("slice", "rows", *(name.replace("_", " ") for name in _FIGURES))
        for kind, parts in slices.items():
            for name, figures in parts.items():
                by_slice.add_row(f"{kind} {name}", f"{figures['rows']:,}", *(_cell(figures[each]) for each in _FIGURES))
        Console().print(by_slice)


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


if __name__ == "__main__":
    from service.contract.command_line import main

    main()
