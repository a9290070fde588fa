"""The command line of jobs: `nextquery job run`, `list`, `show`.

It knows how to ask and how to show. Exit codes: 0 done or kept, 75 busy, 1 failed, 2 a mistake, 143 stopped.
"""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.contract.commands import load_settings, print_json, print_table, with_database

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from service.contract.job_records import RunRecord

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Run what cron runs, and look at what it did.")

AsJson = Annotated[bool, typer.Option("--json", help="Write JSON to stdout.")]
_BUSY, _FAILED, _STOPPED = 75, 1, 143
_COLOURS = {"done": "green", "kept": "yellow", "failed": "bold red", "killed": "bold red", "running": "cyan"}


@app.callback()
def job() -> None:
    """Run what cron runs, and look at what it did."""


@app.command()
def run(
    name: Annotated[
        str,
        typer.Argument(
            help="nightly, or one of its stages: snapshot, retrieval-build, ctr-train, align, evaluate, publish."
        ),
    ],
    window: Annotated[
        str | None,
        typer.Option(help="First day and first day after: 2026-11-01--2026-11-22.", show_default="ends with yesterday"),
    ] = None,
    align: Annotated[
        str | None, typer.Option(help="iter_dpo, token_ppo, both or none.", show_default="NEXTQUERY_JOBS__ALIGN")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Where artefacts are kept.", show_default="NEXTQUERY_DATA_DIR")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run the night, or one stage of it; what is finished is not run again, what was killed goes on."""
    from service.contract.errors import JobBusy, JobError
    from trainer.jobs.nightly import JOB, refuse_unknown_job, run_nightly
    from trainer.jobs.window import latest_window, parse_window

    settings = load_settings(data_dir=data_dir, jobs={"align": align} if align else None)
    refuse_unknown_job(name)
    chosen = parse_window(window, settings.jobs) if window else latest_window(settings.jobs)

    async def act(database: "AsyncEngine") -> "tuple[RunRecord, bool]":
        return await run_nightly(database, settings, chosen, alone=None if name == JOB else name)

    try:
        made, was_done = with_database(settings, act)
    except JobError as error:
        typer.secho(str(error), err=True, fg="red")
        raise typer.Exit(_BUSY if isinstance(error, JobBusy) else _FAILED) from None
    except (asyncio.CancelledError, KeyboardInterrupt):
        typer.secho("It was stopped; the next run goes on from the last finished stage.", err=True, fg="red")
        raise typer.Exit(_STOPPED) from None
    if as_json:
        return print_json({"was_done": was_done, **_as_json(made)})
    print(_sentence(made, was_done))


@app.command("list")
def list_runs(
    limit: Annotated[int, typer.Option(help="Newest runs.", min=1, max=1000)] = 20, as_json: AsJson = False
) -> None:
    """List the newest runs."""
    from service.contract import job_records

    found = with_database(load_settings(), lambda database: job_records.list_runs(database, limit))
    if as_json:
        return print_json([_as_json(each) for each in found])
    rows = [
        [each.run_id, each.window, each.state_at(datetime.now(UTC)), _minute(each.started_at), each.reason or ""]
        for each in found
    ]
    print_table("Runs", ["id", "window", "state", "started", "reason"], rows, _COLOURS)


@app.command()
def show(run_id: Annotated[str, typer.Argument(help="Id of a run.")], as_json: AsJson = False) -> None:
    """Show one run: its stages with figures, durations, memory and reasons."""
    from service.contract import job_records

    found = with_database(load_settings(), lambda database: job_records.show_run(database, run_id))
    if as_json:
        return print_json(_as_json(found))
    rows = [
        [
            each.stage,
            each.state,
            f"{each.seconds:.1f}",
            f"{each.peak_rss_mb:.0f}",
            _code(each.exit_code),
            each.reason or _figures(each.figures),
        ]
        for each in found.stages
    ]
    state = found.state_at(datetime.now(UTC))
    print_table(f"{found.job} {found.window}: {state}", ["stage", "state", "s", "MiB", "exit", "what"], rows, _COLOURS)


def _sentence(made: "RunRecord", was_done: bool) -> str:
    if not was_done:
        return f"Nothing to do: {made.job} of {made.window} is {made.state} already. {made.reason or ''}".strip()
    return (
        f"{made.job} of {made.window} is {made.state}. {made.reason or ''}".strip() + f"\nIts record is {made.run_id}."
    )


def _as_json(run: "RunRecord") -> dict[str, Any]:
    from service.contract.job_records import as_json

    return {**as_json(run), "state": run.state_at(datetime.now(UTC))}


def _minute(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M}"


def _code(exit_code: int | None) -> str:
    return "" if exit_code is None else str(exit_code)


def _figures(figures: Any) -> str:
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in figures.items()
    )


if __name__ == "__main__":
    from service.contract.command_line import main

    main()
