"""The command line of the online half: serve, db, models, doctor, snapshot, import.

It knows how to ask and how to show; every command imports what it needs when it is called.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from service.contract.commands import load_settings, print_json, print_table, with_database

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine


serve = typer.Typer(add_completion=False)
db = typer.Typer(add_completion=False, no_args_is_help=True, help="Create, migrate and check the database.")
models = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Show the registered models and who serves, and change it."
)
doctor = typer.Typer(add_completion=False)
snapshot = typer.Typer(add_completion=False)
import_log = typer.Typer(add_completion=False)

_Result = TypeVar("_Result")
_COLOURS = {"ok": "green", "pass": "green", "warn": "yellow", "fail": "bold red"}

AsJson = Annotated[bool, typer.Option("--json", help="Write JSON to stdout.")]
OfTask = Annotated[str | None, typer.Option("--task", help="Whose champion: a task, or * for all without their own.")]
Tenant = Annotated[str, typer.Option(help="Whose data it is.")]


@serve.command("serve")
def run_service(
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 picks one.", show_default="8080")] = None,
    engine: Annotated[
        str | None, typer.Option(help="auto, vllm_local, transformers_local, scripted or off.", show_default="auto")
    ] = None,
    policy: Annotated[
        str | None, typer.Option(help="champion, or a model by path or hub id.", show_default="champion")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Where the database and the secrets are kept.", show_default=".data")
    ] = None,
) -> None:
    """Serve /recommend and /click. Options go before NEXTQUERY_ variables, and those before .env."""
    settings = load_settings(host=host, port=port, engine=engine, policy=policy, data_dir=data_dir)

    from service.app import serve as serve_until_stopped

    raise typer.Exit(serve_until_stopped(settings, typer.echo))


@db.command()
def upgrade(as_json: AsJson = False) -> None:
    """Bring the schema up to date, creating the database's tables if need be."""
    settings = load_settings()

    from service.contract import database

    database.upgrade(settings.resolved_database_url(), settings.timeouts)
    _say({"revision": database.head_revision()}, "The database is at schema revision {revision}.", as_json)


@db.command()
def check(as_json: AsJson = False) -> None:
    """Check that the database answers and has the tables of this code."""
    from service.contract import database

    _with_database(database.check_schema)
    _say({"revision": database.head_revision()}, "The database answers, at schema revision {revision}.", as_json)


@models.command("list")
def list_models(as_json: AsJson = False) -> None:
    """List every registered version, newest first, and what it serves."""
    from service.contract import registry

    async def read(engine: "AsyncEngine") -> tuple[Any, Any]:
        return await registry.list_versions(engine), await registry.list_champions(engine)

    versions, champions = _with_database(read)
    serves = {champion.version: f"{champion.kind} for {champion.task}" for champion in champions}
    rows = [{**asdict(version), "champion": serves.get(version.version)} for version in versions]
    if as_json:
        return print_json(rows)
    _print_rows("Models", ["version", "kind", "task", "created_at", "champion"], rows)


@models.command("show")
def show_model(version: str, as_json: AsJson = False) -> None:
    """Show one version: where its files are, their checksum, its parent and its metrics."""
    from service.contract import registry

    model = asdict(_with_database(lambda engine: registry.show(engine, version)))
    if as_json:
        return print_json(model)
    _print_rows(version, ["field", "value"], [{"field": name, "value": value} for name, value in model.items()])


@models.command()
def promote(
    version: Annotated[str, typer.Argument(help="A registered version, or the directory of a policy.")],
    task: OfTask = None,
    expected_revision: Annotated[
        int | None,
        typer.Option(min=0, hidden=True, help="Only over the champion of this revision; 0: only where there is none."),
    ] = None,
    fence: Annotated[str | None, typer.Option(hidden=True, help="Of the job that promotes: nightly:7.")] = None,
    as_json: AsJson = False,
) -> None:
    """Put a version into service; running services take it up within seconds."""
    from service.contract import registry
    from service.contract.fence import parse_fence

    job, directory = parse_fence(fence) if fence else None, Path(version)
    is_directory = directory.is_dir()

    async def put_in_front(engine: "AsyncEngine") -> Any:
        if is_directory:
            model = await _register_policy(engine, directory, task or registry.ANY_TASK)
        else:
            model = await registry.show(engine, version)
            if model.kind == "policy":
                await _refuse_unless_loadable(model.directory)
        return await registry.put_in_front(engine, model, task=task, expected_revision=expected_revision, fence=job)

    _say_champion(_with_database(put_in_front), as_json)


@models.command()
def register(
    directory: Annotated[Path, typer.Argument(help="The directory of a policy.")],
    task: OfTask = None,
    as_json: AsJson = False,
) -> None:
    """Record a policy, so that experiments can name it; it serves nobody yet."""
    from service.contract import registry

    model = _with_database(lambda engine: _register_policy(engine, directory, task or registry.ANY_TASK))
    _say(asdict(model), "{version} is registered as a policy for {task}.", as_json)


@models.command()
def rollback(
    kind: Annotated[str, typer.Option(help="policy, ctr or cor.")] = "policy",
    task: OfTask = None,
    as_json: AsJson = False,
) -> None:
    """Put the version back that served before; running services take it up within seconds."""
    from service.contract import registry

    champion = _with_database(lambda engine: registry.roll_back(engine, kind, task or registry.ANY_TASK))
    _say_champion(champion, as_json)


@doctor.command("doctor")
def examine(as_json: AsJson = False) -> None:
    """Check everything that nextquery depends on, and say how to mend it."""
    settings = load_settings()

    from service.doctor import examine_all

    findings = [asdict(finding) for finding in examine_all(settings)]
    if as_json:
        print_json(findings)
    else:
        _print_rows("nextquery doctor", ["name", "state", "finding", "remedy"], findings)
    raise typer.Exit(int(any(finding["state"] == "fail" for finding in findings)))


@snapshot.command("snapshot")
def freeze_log(
    since: Annotated[str, typer.Option("--from", help="First moment: a date (midnight UTC) or an ISO date and time.")],
    until: Annotated[str, typer.Option("--to", help="First moment after the window, at least a minute ago.")],
    output: Annotated[
        Path | None, typer.Option(help="Where it appears.", show_default="<data_dir>/snapshots/<from>--<to>")
    ] = None,
    tenant: Tenant = "default",
    replace: Annotated[bool, typer.Option(help="Put it in the place of one with other rows.")] = False,
    as_json: AsJson = False,
) -> None:
    """Freeze a window of the log as Parquet; the same rows give the same bytes."""
    from service.contract.snapshot import directory_name, parse_moment, take_snapshot

    begin, end = parse_moment(since), parse_moment(until)
    place = output or load_settings().data_dir / "snapshots" / directory_name(begin, end, tenant)
    taken, is_new = _with_database(
        lambda engine: take_snapshot(engine, begin, end, place, tenant=tenant, replace=replace)
    )
    if as_json:
        return print_json({"directory": taken.directory, "new": is_new, **taken.manifest})
    counts = taken.manifest["counts"]
    rows = [{"table": name, "rows": taken.rows(name), "days": len(days)} for name, days in counts.items()]
    _print_rows("Snapshot", ["table", "rows", "days"], rows)
    print(f"It is in {taken.directory}" + ("." if is_new else ", unchanged since it was taken before."))


@import_log.command("import")
def import_logs(
    files: Annotated[list[Path], typer.Argument(help="Search logs.", exists=True, dir_okay=False)],
    log_format: Annotated[str, typer.Option("--format", help="ubi, aol, trec-session, csv or parquet.")],
    validate: Annotated[bool, typer.Option("--validate", help="Only check; exit code 1 when a check fails.")] = False,
    sessions_are_people: Annotated[
        bool, typer.Option("--sessions-are-people", help="Where no user is known, count each session as one person.")
    ] = False,
    columns: Annotated[str, typer.Option(help="Names in a csv or parquet file: query=q,user_id=u,at=time.")] = "",
    starting_at: Annotated[
        str | None, typer.Option(help="Date of times of day; rows without a time get one, a second apart from here.")
    ] = None,
    tenant: Tenant = "default",
    locale: Annotated[str, typer.Option(help="Language of the queries, such as en or pt-BR.")] = "en",
    as_json: AsJson = False,
) -> None:
    """Check search logs from elsewhere and import them. Rows that cannot be imported are kept in a file to be mended."""
    from rich.console import Console

    from service.contract.database import check_schema, create
    from service.contract.snapshot import parse_moment
    from service.imports import formats, importer
    from service.imports.columns import parse_columns
    from service.imports.rows import ReadOptions

    settings, chosen = load_settings(), formats.get_format(log_format)
    moment = parse_moment(starting_at) if starting_at else None
    read = ReadOptions(columns=parse_columns(columns), starting_at=moment)
    options = importer.ImportOptions(tenant=tenant, locale=locale, sessions_are_people=sessions_are_people, read=read)
    aside = None if validate else settings.data_dir / "imports"
    if not validate:
        _with_database(check_schema)
    engine = create(settings.resolved_database_url(), settings.timeouts)
    with Console(stderr=True).status("Reading") as status:
        reports = list(importer.import_logs(engine, files, chosen, options, aside, status.update))
    if as_json:
        print_json([asdict(report) for report in reports])
    for report in [] if as_json else reports:
        _print_rows(report.file, ["name", "state", "finding"], [asdict(check) for check in report.checks])
        print(report.summary())
    raise typer.Exit(int(not all(report.is_sound if validate else report.took_something for report in reports)))


def _with_database(read: "Callable[[AsyncEngine], Awaitable[_Result]]") -> _Result:
    settings = load_settings()
    _make_room(settings.data_dir)
    return with_database(settings, read, check=False)


def _make_room(data_dir: Path) -> None:
    from service.contract.errors import ConfigurationError

    try:
        data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"The data directory {data_dir} cannot be created: {error.strerror}. Set NEXTQUERY_DATA_DIR to a place that can."
        ) from error


async def _register_policy(engine: "AsyncEngine", directory: Path, task: str) -> Any:
    """The policy of a directory, recorded for `task`, once it could be loaded."""
    import asyncio

    from service.contract import registry
    from service.contract.policy import load_policy

    policy = await asyncio.to_thread(load_policy, directory)
    return await registry.register(
        engine, version=policy.version, kind="policy", task=task, directory=directory, parent=policy.lineage
    )


async def _refuse_unless_loadable(directory: Path) -> None:
    """Raises ArtifactError now, with the reason, where every service would refuse it later."""
    import asyncio

    from service.contract.policy import load_policy

    await asyncio.to_thread(load_policy, directory)


def _say_champion(champion: Any, as_json: bool) -> None:
    _say(asdict(champion), "{version} is the {kind} for {task}, in the place of {previous}.", as_json)


def _say(values: Mapping[str, Any], sentence: str, as_json: bool) -> None:
    if as_json:
        print_json(values)
    else:
        print(sentence.format(**values))


def _print_rows(title: str, columns: list[str], rows: list[dict[str, Any]]) -> None:
    print_table(title, columns, [[row[column] for column in columns] for row in rows], _COLOURS)


if __name__ == "__main__":
    from service.contract.command_line import main

    main()
