"""Which experiments run: what was accepted is kept in the database, and never changes while it runs.

It knows nothing about requests. The file of experiments is read into it; what it refuses stays as it was.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Generic, Literal, TypeVar

from sqlalchemy import Row, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from service.contract.database import database_errors
from service.contract.errors import ConfigurationError
from service.contract.registry import ANY_TASK
from service.contract.tables import experiments, model_versions
from service.contract.tasks import all_tasks
from service.experiments.definitions import HOLDOUT, Experiment, Experiments, Holdout, check_together

Source = Literal["file", "job"]


Defined = TypeVar("Defined", bound=Experiment | Holdout, covariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept(Generic[Defined]):
    """An experiment, or the hold-out, as it was accepted. `ended_at` is None while it runs."""

    id: str
    definition: Defined
    source: str
    started_at: datetime
    ended_at: datetime | None = None
    reason: str | None = None


async def list_experiments(database: AsyncEngine) -> list[Kept[Experiment | Holdout]]:
    """All that were ever accepted, the newest first."""
    with database_errors("experiments were listed"):
        async with database.connect() as connection:
            return sorted((await _all(connection)).values(), key=lambda kept: (kept.started_at, kept.id), reverse=True)


async def running_ones(database: AsyncEngine) -> list[Kept[Experiment]]:
    """The experiments that run now, the oldest first, with what is known of each."""
    return [each for each in (await experiments_of(database)).values() if each.ended_at is None]


async def experiments_of(database: AsyncEngine) -> dict[str, Kept[Experiment]]:
    """All experiments that were ever accepted, the oldest first, by their ids."""
    kept = (await list_experiments(database))[::-1]
    return {each.id: each for each in map(_as_experiment, kept) if each}


def named(known: Mapping[str, Kept[Experiment]], name: str) -> Kept[Experiment]:
    """The one of that name.

    Raises:
        ConfigurationError: There is none.
    """
    if name not in known:
        raise ConfigurationError(
            f"There is no experiment {name!r}. `nextquery experiments list` shows those there are."
        )
    return known[name]


def _as_experiment(kept: "Kept[Experiment | Holdout]") -> "Kept[Experiment] | None":
    """The same; None for the hold-out."""
    definition = kept.definition
    return replace(kept, definition=definition) if isinstance(definition, Experiment) else None  # type: ignore[return-value]


async def running(database: AsyncEngine) -> Experiments:
    """Those that run now."""
    return running_of(await list_experiments(database))


async def apply(database: AsyncEngine, wanted: Experiments) -> list[str]:
    """Let the experiments of a file run, and no others of the file; returns what changed, a sentence each.

    Those that a job started go on. One that has ended stays ended. The same file again changes nothing.

    Raises:
        ConfigurationError: One that runs was changed, an id or a policy is not to be had, two contradict. Nothing changed.
        DatabaseError: The database is away.
    """
    named: dict[str, Experiment | Holdout] = {each.id: each for each in wanted.experiments}
    if wanted.holdout:
        named[HOLDOUT] = wanted.holdout
    with database_errors("experiments were changed"):
        async with database.begin() as connection:
            kept = await _all(connection)
            of_jobs = [each for each in kept.values() if each.source == "job" and each.ended_at is None]
            for name, definition in named.items():
                if name in kept:
                    _refuse_changed(kept[name], definition)
            fresh = {name: definition for name, definition in named.items() if name not in kept}
            await _refuse_unknown_policies(connection, fresh.values())
            going_on = [kept[name] for name in named if name in kept and kept[name].ended_at is None]
            _refuse_contradictions([*of_jobs, *going_on], fresh)
            gone = [
                name for name, each in kept.items() if each.source == "file" and not each.ended_at and name not in named
            ]
            for name, definition in fresh.items():
                await _start(connection, name, definition, "file")
            for name in gone:
                await _end(connection, name, "It is not in the file any more.")
    return [*(f"{name} runs." for name in fresh), *(f"{name} has ended." for name in gone)]


async def start(database: AsyncEngine, experiment: Experiment, source: Source = "job") -> None:
    """Let one more experiment run; the same one again is no error.

    Raises:
        ConfigurationError: Its id was used, its policy is not registered, or it contradicts one that runs.
    """
    with database_errors("an experiment was started"):
        async with database.begin() as connection:
            kept = await _all(connection)
            if experiment.id in kept:
                _refuse_changed(kept[experiment.id], experiment)
                return
            await _refuse_unknown_policies(connection, [experiment])
            _refuse_contradictions(
                [each for each in kept.values() if each.ended_at is None], {experiment.id: experiment}
            )
            await _start(connection, experiment.id, experiment, source)


async def end(database: AsyncEngine, name: str, reason: str) -> None:
    """End one that runs; whoever was in it is served as everybody.

    Raises:
        ConfigurationError: None of that name runs.
    """
    with database_errors("an experiment was ended"):
        async with database.begin() as connection:
            if not await _end(connection, name, reason):
                raise ConfigurationError(
                    f"No experiment {name!r} runs. `nextquery experiments list` shows those there are."
                )


def running_of(kept: Sequence[Kept[Experiment | Holdout]]) -> Experiments:
    """Those of `kept`, the newest first, that run, the oldest first."""
    now = [each.definition for each in reversed(kept) if each.ended_at is None]
    return Experiments.model_construct(
        holdout=next((each for each in now if isinstance(each, Holdout)), None),
        experiments=[each for each in now if isinstance(each, Experiment)],
    )


def _refuse_changed(kept: Kept[Experiment | Holdout], wanted: Experiment | Holdout) -> None:
    was, now = kept.definition.model_dump(), wanted.model_dump()
    different = sorted(name for name in was.keys() | now.keys() if was.get(name) != now.get(name))
    if not different:
        return
    what = f"has ended on {kept.ended_at:%Y-%m-%d}" if kept.ended_at else "runs"
    raise ConfigurationError(
        f"{kept.id} {what}, and another {different[0]} would make its results those of two experiments. Put it back as it "
        "was, and clone it under another id."
    )


def _refuse_contradictions(
    present: Iterable[Kept[Experiment | Holdout]], fresh: Mapping[str, Experiment | Holdout]
) -> None:
    both = [*(each.definition for each in present), *fresh.values()]
    try:
        check_together([each for each in both if isinstance(each, Experiment)])
    except ValueError as error:
        raise ConfigurationError(f"The experiments are refused: {error}.") from None


async def _refuse_unknown_policies(connection: AsyncConnection, wanted: Iterable[Experiment | Holdout]) -> None:
    rows = await connection.execute(
        select(model_versions.c.version, model_versions.c.task).where(model_versions.c.kind == "policy")
    )
    registered = {row.version: row.task for row in rows}
    for each in wanted:
        tasks = each.tasks or list(all_tasks())
        for version in (change.policy for change in each.changes if change.policy):
            if version not in registered:
                raise ConfigurationError(
                    f"{each.id} names the policy {version!r}, which is not registered. `nextquery models list` shows those "
                    "there are."
                )
            if registered[version] != ANY_TASK and set(tasks) != {registered[version]}:
                raise ConfigurationError(
                    f"{each.id} names the policy {version!r}, which writes {registered[version]} only. Write `tasks: "
                    f"[{registered[version]}]` into the experiment."
                )


async def _all(connection: AsyncConnection) -> dict[str, Kept[Experiment | Holdout]]:
    return {row.id: _kept(row) for row in await connection.execute(select(experiments))}


def _kept(row: Row[Any]) -> Kept[Experiment | Holdout]:
    values = dict(row._mapping)
    model = Holdout if row.id == HOLDOUT else Experiment
    return Kept(definition=model.model_validate(values.pop("definition")), **values)


async def _start(connection: AsyncConnection, name: str, definition: Experiment | Holdout, source: Source) -> None:
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    row = {"id": name, "definition": definition.model_dump(), "source": source, "started_at": datetime.now(UTC)}
    # Of two replicas that read one file at once, one comes second.
    await connection.execute(dialect.insert(experiments).values(row).on_conflict_do_nothing())


async def _end(connection: AsyncConnection, name: str, reason: str) -> bool:
    own = (experiments.c.id == name) & experiments.c.ended_at.is_(None)
    ended = await connection.execute(update(experiments).where(own).values(ended_at=datetime.now(UTC), reason=reason))
    return bool(ended.rowcount)
