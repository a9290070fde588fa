"""The command line of experiments: list, apply, end, report, off-policy, try, decide.

It knows how to ask and how to show.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.contract.commands import load_settings, print_json, print_table, with_database

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from service.experiments.report import ArmReport, Guardrail, Rate, Report

app = typer.Typer(add_completion=False, no_args_is_help=True, help="See what experiments run, and what they came to.")

AsJson = Annotated[bool, typer.Option("--json", help="Write JSON to stdout.")]
Name = Annotated[str, typer.Argument(help="Id of an experiment.")]
_COLOURS = {"runs": "cyan", "above 0": "green", "below 0": "bold red", "worse": "bold red"}


@app.callback()
def experiments() -> None:
    """See what experiments run, and what they came to."""


@app.command("list")
def list_experiments(as_json: AsJson = False) -> None:
    """List all experiments, the newest first."""
    from service.experiments import store

    found = with_database(load_settings(), store.list_experiments)
    if as_json:
        return print_json([{**asdict(each), "definition": each.definition.model_dump()} for each in found])
    rows = [
        [each.id, "ended" if each.ended_at else "runs", each.source, f"{each.started_at:%Y-%m-%d %H:%M}", each.reason]
        for each in found
    ]
    print_table("Experiments", ["id", "state", "from", "started", "reason"], rows, _COLOURS)


@app.command()
def apply(
    file: Annotated[
        Path | None, typer.Argument(help="The experiment file.", show_default="NEXTQUERY_EXPERIMENTS_FILE")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Take up an experiment file now, or say why it is refused; a running service does so by itself."""
    from service.experiments import store
    from service.experiments.definitions import read_experiments

    settings = load_settings()
    wanted = read_experiments(file or settings.resolved_experiments_file())
    changed = with_database(settings, lambda database: store.apply(database, wanted))
    if as_json:
        return print_json({"changed": changed})
    print("\n".join(changed) or "Nothing changed.")


@app.command()
def end(name: Name, reason: Annotated[str, typer.Option(help="Why, for those who look later.")] = "") -> None:
    """End an experiment; its id is never used again."""
    from service.experiments import store

    with_database(load_settings(), lambda database: store.end(database, name, reason or "It was ended by hand."))
    print(f"{name} has ended. Running services serve everybody alike within seconds.")


@app.command()
def report(
    name: Name,
    plot: Annotated[Path | None, typer.Option(help="Draw CTR by arm and day into this PNG.")] = None,
    as_json: AsJson = False,
) -> None:
    """Report an experiment: CTR by arm with intervals, lifts, guardrails, power; add up new days of the log first."""
    from service.experiments.report import make_report

    async def make(database: "AsyncEngine") -> "Report":
        return await make_report(database, name)

    found = with_database(load_settings(), make)
    if plot:
        from service.experiments.plot import plot_days

        plot_days(found, plot)
    if as_json:
        return print_json(_as_json(found))
    _print_report(found)


@app.command("off-policy")
def off_policy(
    name: Name,
    arm: Annotated[str, typer.Argument(help="An arm with rerank: reorder and an explore_share.")],
    explore_share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of orders drawn, instead of its own.")
    ] = 0.0,
    as_json: AsJson = False,
) -> None:
    """Estimate what an arm would have come to with another share of drawn orders (SNIPS)."""
    from service.experiments.off_policy import estimate_off_policy

    found = with_database(load_settings(), lambda database: estimate_off_policy(database, name, arm, explore_share))
    if as_json:
        return print_json(asdict(found))
    print(
        f"With an explore_share of {explore_share:g}, {arm} would have a CTR of {found.value:.4f} ({found.low:.4f} "
        f"{found.high:.4f}); the estimate is worth {found.effective_lists:.0f} lists of its own."
    )


@app.command("try")
def try_version(
    version: Annotated[str, typer.Argument(help="A registered policy.")],
    task: Annotated[str, typer.Option(help="Whose lists it writes: a task, or * for all.")] = "*",
    share: Annotated[float, typer.Option(min=0.001, max=1, help="Share of people who take part.")] = 0.2,
    lift: Annotated[float, typer.Option(min=0.001, max=10, help="Relative lift that is looked for.")] = 0.05,
    as_json: AsJson = False,
) -> None:
    """Try a policy on a share of people against the champion; `decide` makes it champion once it has won."""
    from service.experiments.decide import try_policy

    async def act(database: "AsyncEngine") -> str | None:
        return await try_policy(database, version, task, share=share, lift=lift)

    started = with_database(load_settings(), act)
    if as_json:
        return print_json({"experiment": started})
    print(f"{started} runs." if started else "Another policy is being tried on that task: end that one first.")


@app.command()
def decide(
    most_days: Annotated[int, typer.Option(min=1, help="Days after which what has not won is dropped.")] = 14,
    fence: Annotated[str | None, typer.Option(hidden=True, help="Of the job that decides: nightly:7.")] = None,
    as_json: AsJson = False,
) -> None:
    """Promote what has won and drop what has lost, of the experiments that say `promote`."""
    from service.contract.fence import parse_fence
    from service.experiments.decide import decide_all

    job = parse_fence(fence) if fence else None
    found = with_database(load_settings(), lambda database: decide_all(database, most_days=most_days, fence=job))
    if as_json:
        return print_json({"decided": [asdict(each) for each in found]})
    print(
        "\n".join(f"{each.experiment}: {each.state}. {each.reason}" for each in found) or "There is nothing to decide."
    )


def _as_json(found: "Report") -> dict[str, Any]:
    whole: dict[str, Any] = json.loads(
        json.dumps({**asdict(found), "experiment": found.experiment.model_dump()}, default=str)
    )
    return whole


def _print_report(found: "Report") -> None:
    state = f"ended {found.ended_at:%Y-%m-%d}" if found.ended_at else "runs"
    days = f"{len(found.days)} days with lists" if found.days else "no list yet"
    print(f"{found.experiment.id}: {state}, {days}, by {found.experiment.unit}.")
    if found.problem:
        return print(found.problem)
    columns = ["arm", "units", "lists", "CTR", "of seen", "lift", "once", "always valid", "verdict"]
    print_table("CTR = clicked lists / lists", columns, [_row(arm) for arm in found.arms], _COLOURS)
    positions = sorted({position for arm in found.arms for position in arm.by_position})
    places = [[arm.name, *(_share(arm.by_position.get(position)) for position in positions)] for arm in found.arms]
    print_table("Clicked queries by position", ["arm", *map(str, positions)], places)
    guards = [_guard(arm.name, name, guard) for arm in found.arms for name, guard in (arm.guardrails or {}).items()]
    print_table("Guardrails", ["arm", "of", "control", "arm's", "rise", "allowed", "verdict"], guards, _COLOURS)
    for arm in found.arms[1:]:
        print(_told_power(found, arm))


def _row(arm: "ArmReport") -> list[object]:
    first = [arm.name, arm.units, arm.lists, _interval(arm.ctr), _share(arm.ctr_of_seen.value)]
    if arm.guardrails is None:
        return [*first, "", "", "", "control"]
    if arm.lift is None:
        return [*first, "", "", "", "too few clicks"]
    found = arm.lift
    verdict = "above 0" if found.always_low > 0 else "below 0" if found.always_high < 0 else "open"
    once, always = f"{found.low:+.1%} {found.high:+.1%}", f"{found.always_low:+.1%} {found.always_high:+.1%}"
    return [*first, f"{found.value:+.1%}", once, always, verdict]


def _guard(arm: str, name: str, guard: "Guardrail") -> list[object]:
    rise = "" if guard.rise is None else f"{guard.rise:+.1%}"
    values = ["" if each is None else f"{each:.4g}" for each in (guard.control, guard.arm)]
    return [arm, name, *values, rise, f"{guard.allowed:+.0%}", "" if guard.holds else "worse"]


def _told_power(found: "Report", arm: "ArmReport") -> str:
    if arm.power is None or arm.days_needed is None:
        return f"{arm.name}: at least ten lists with a click are needed in each arm before anything can be said."
    more = f"; some {arm.days_needed:.0f} more days like these would make it .8" if arm.days_needed else ""
    return f"{arm.name}: a lift of {found.experiment.lift:.0%} would be found with probability {arm.power:.2f}{more}."


def _interval(rate: "Rate") -> str:
    return "" if rate.value is None else f"{rate.value:.4f} ({rate.low:.4f} {rate.high:.4f})"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
