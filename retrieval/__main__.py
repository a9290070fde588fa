"""The command line of co-occurrence retrieval: mine, evaluate, build, publish.

It knows how to ask and how to show; every command imports what it needs when it is called.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, closing
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.contract.commands import load_settings, print_json, with_database

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from retrieval.build import BuildConfig
    from retrieval.evaluate import Evaluation
    from retrieval.mining.engine import Engine
    from service.contract.settings import Settings

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Learn from the log what people ask next.")

AsJson = Annotated[bool, typer.Option("--json", help="Write JSON to stdout, and no progress.")]
SnapshotDir = Annotated[Path, typer.Option(help="The snapshot to learn from.")]
K = Annotated[int, typer.Option(help="What fewer people typed is never shown to others.", min=1)]
Work = Annotated[
    Path | None,
    typer.Option(
        help="Keeps mined days, vectors and the encoder between builds.", show_default="in the data directory"
    ),
]
EncoderName = Annotated[
    str | None,
    typer.Option(help="A sentence-transformers model by path or hub id, taken as it is, instead of training one."),
]
Start = Annotated[
    str | None,
    typer.Option(help="Any BERT-like model that training starts from.", show_default="all-MiniLM-L6-v2"),
]
Retrain = Annotated[bool, typer.Option("--retrain", help="Train the encoder anew, though the work directory has one.")]
Steps = Annotated[int, typer.Option(help="Steps of training the encoder, where the work directory has none.", min=1)]
Damping = Annotated[float, typer.Option(help="0 trusts frequency, 1 corrects fully for popularity.", min=0, max=1)]
HalfLife = Annotated[float, typer.Option(help="After so many days a pair counts half.", min=0.1)]

ExpectedRevision = Annotated[
    int | None,
    typer.Option(min=0, hidden=True, help="Only over the champion of this revision; 0: only where there is none."),
]
FenceText = Annotated[str | None, typer.Option("--fence", hidden=True, help="Of the job that promotes: nightly:7.")]


class EngineName(StrEnum):
    """Where mining runs."""

    DUCKDB = "duckdb"
    SPARK = "spark"


@app.callback()
def retrieval() -> None:
    """Learn from the log what people ask next."""


@app.command()
def mine(
    snapshot: Annotated[Path, typer.Option(help="The snapshot to mine.")],
    output: Annotated[Path, typer.Option(help="Where the triples appear, in the place of earlier ones.")],
    cache: Annotated[
        Path | None, typer.Option(help="Where mined days are kept; days of other snapshots there are deleted.")
    ] = None,
    engine: Annotated[EngineName, typer.Option(help="This machine, or a cluster.")] = EngineName.DUCKDB,
    k: Annotated[int, typer.Option(help="What fewer people typed is never shown to others.")] = 5,
    silence_minutes: Annotated[int, typer.Option(help="A longer silence ends a session.")] = 30,
    per_person_cap: Annotated[int, typer.Option(help="How often one person counts for one pair.")] = 3,
    bot_queries_per_day: Annotated[int, typer.Option(help="Whoever typed more on a day is a bot.")] = 1000,
    as_json: AsJson = False,
) -> None:
    """Count which query follows which: triples (q, q_next, c) over all people."""
    from retrieval.mining.mine import mine as mine_snapshot
    from retrieval.mining.rules import MiningRules
    from service.contract.snapshot import open_snapshot

    rules = MiningRules(
        k=k, silence_minutes=silence_minutes, per_person_cap=per_person_cap, bot_queries_per_day=bot_queries_per_day
    )
    log = open_snapshot(snapshot)
    output.parent.mkdir(parents=True, exist_ok=True)
    with _engine(engine, output.parent) as running:
        report = mine_snapshot(log, output, rules, engine=running, cache=cache)
    if as_json:
        return print_json(asdict(report))
    print("\n".join(report.lines()))
    print(f"They are in {output}.")


@app.command()
def evaluate(
    snapshot: SnapshotDir,
    work: Work = None,
    encoder: EncoderName = None,
    start: Start = None,
    retrain: Retrain = False,
    train_steps: Steps = 300,
    k: K = 5,
    damping: Damping = 0.1,
    half_life_days: HalfLife = 30.0,
    seed: Annotated[int, typer.Option(help="Decides who is held out.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Learn from nine people in ten, and predict the next queries of the others."""
    from retrieval.build import evaluate_on
    from service.contract.snapshot import open_snapshot

    config = _build_config(work, encoder, start, retrain, train_steps, k, damping, half_life_days, seed)
    log = open_snapshot(snapshot)
    with _engine(EngineName.DUCKDB, config.work) as running:
        evaluation = evaluate_on(log, config, running, quiet=as_json)
    if as_json:
        return print_json(asdict(evaluation))
    _print_evaluation(evaluation)


@app.command()
def build(
    snapshot: SnapshotDir,
    destination: Annotated[
        Path | None, typer.Option(help="Where builds appear.", show_default="cor in the data directory")
    ] = None,
    work: Work = None,
    encoder: EncoderName = None,
    start: Start = None,
    retrain: Retrain = False,
    train_steps: Steps = 300,
    k: K = 5,
    damping: Damping = 0.1,
    half_life_days: HalfLife = 30.0,
    engine: Annotated[EngineName, typer.Option(help="This machine, or a cluster.")] = EngineName.DUCKDB,
    promote: Annotated[bool, typer.Option("--promote/--no-promote", help="Put it into service.")] = True,
    as_json: AsJson = False,
) -> None:
    """Mine, encode, index, evaluate, and put the build into service; a running service takes it up by itself."""
    from retrieval.build import build as build_it
    from service.contract.snapshot import open_snapshot

    settings = load_settings()
    config = _build_config(work, encoder, start, retrain, train_steps, k, damping, half_life_days, seed=0)
    log = open_snapshot(snapshot)
    with _engine(engine, config.work) as running:
        built = build_it(log, destination or settings.data_dir / "cor", config, running, quiet=as_json)
    if promote:
        _put_into_service(settings, built.directory)
    if as_json:
        return print_json({**built.manifest, "directory": built.directory, "is_new": built.is_new})
    print("\n".join(built.mining.lines()))
    _print_evaluation(built.manifest["evaluation"])
    print(f"{built.version} is in {built.directory}" + (", and in service." if promote else "."))


@app.command()
def publish(
    directory: Annotated[Path, typer.Argument(help="A build, or the version of a registered one.")],
    expected_revision: ExpectedRevision = None,
    fence: FenceText = None,
    as_json: AsJson = False,
) -> None:
    """Put a build into service: into Redis where NEXTQUERY_REDIS_URL is set, and to the front of the registry."""
    settings = load_settings()
    place = directory if directory.exists() else settings.data_dir / "cor" / directory
    _put_into_service(settings, place, expected_revision, fence)
    if as_json:
        return print_json({"version": place.name, "directory": place})
    print(f"{place.name} is in service.")


def _put_into_service(
    settings: "Settings", directory: Path, expected_revision: int | None = None, fence: str | None = None
) -> None:
    from retrieval.publish import promote, put_into_redis
    from service.contract.fence import check_fence, parse_fence

    job = parse_fence(fence) if fence else None

    async def put(database: "AsyncEngine") -> None:
        if job:  # before Redis, too, is changed
            async with database.begin() as connection:
                await check_fence(connection, job)
        if settings.redis_url:
            times, keep_old_s = settings.timeouts, settings.redis_keep_old_s
            await put_into_redis(directory, settings.redis_url, timeout_s=times.redis_write_s, keep_old_s=keep_old_s)
        await promote(database, directory, expected_revision=expected_revision, fence=job)

    with_database(settings, put)


def _build_config(
    work: Path | None,
    encoder: str | None,
    start: str | None,
    retrain: bool,
    train_steps: int,
    k: int,
    damping: float,
    half_life_days: float,
    seed: int,
) -> "BuildConfig":
    import shutil

    from retrieval.build import BuildConfig
    from retrieval.mining.rules import MiningRules
    from retrieval.searcher import SearchRule
    from retrieval.simcse import SimcseConfig

    settings = load_settings()
    place = work or settings.data_dir / "cor-work"
    place.mkdir(parents=True, exist_ok=True)
    if retrain:
        shutil.rmtree(place / "encoder", ignore_errors=True)
    return BuildConfig(
        work=place,
        rules=MiningRules(k=k),
        search=SearchRule(n=settings.cor_n, neighbours=settings.cor_neighbours, floor=settings.cor_similarity_floor),
        encoder=encoder,
        start=start,
        train=SimcseConfig(steps=train_steps),
        damping=damping,
        half_life_days=half_life_days,
        seed=seed,
    )


def _print_evaluation(evaluation: "Evaluation | Mapping[str, Any]") -> None:
    from rich.console import Console
    from rich.table import Table

    found = evaluation if isinstance(evaluation, Mapping) else asdict(evaluation)
    if not found["transitions"]:
        print("Nobody was held out: the log is too small to evaluate on.")
        return
    columns = ["coverage", "hit1", "hit3", "hit10", "hit10_unseen", "hit10_nonhub"]
    title = f"{found['transitions']:,} next queries of {found['sessions']:,} held-out sessions"
    table = Table("method", *columns, title=title, title_justify="left")
    for method, figures in found["methods"].items():
        cells = ("-" if figures[column] is None else f"{figures[column]:.3f}" for column in columns)
        table.add_row(method, *cells)
    Console().print(table)
    gain, low, high = found["gain_nonhub"]
    print(
        f"cor - frequency, hit@10 on targets that are no hubs: {gain:+.3f} (95 % interval {low:+.3f} to {high:+.3f})."
    )


def _engine(name: EngineName, spill: Path) -> "AbstractContextManager[Engine]":
    if name is EngineName.SPARK:
        from retrieval.mining.spark_engine import SparkEngine

        return closing(SparkEngine())
    from retrieval.mining.duckdb_engine import DuckDBEngine

    return closing(DuckDBEngine(spill))


if __name__ == "__main__":
    from service.contract.command_line import main

    main()
