"""The registry: which models were published, and which one serves.

It verifies a directory and records it; it copies no file, loads no model, and knows nothing about training.
"""

import asyncio
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Row, Select, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from service.contract.artifact import manifest_sha256, read_manifest, verify
from service.contract.database import database_errors
from service.contract.errors import ArtifactError, RegistryConflict
from service.contract.fence import Fence, check_fence
from service.contract.settings import STARTER
from service.contract.tables import champions, model_versions

ANY_TASK = "*"
_STARTER_PREFIX = "starter:"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """One published model. `directory` is where its files are now; `manifest_sha256` stands for all of them."""

    version: str
    kind: str
    task: str
    directory: Path
    manifest_sha256: str
    parent: str | None
    created_at: datetime
    metrics: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Champion:
    """The version that serves (kind, task). `task` may be "*" though another was asked for."""

    kind: str
    task: str
    version: str
    previous: str | None
    revision: int
    changed_at: datetime
    directory: Path
    manifest_sha256: str


async def register(
    database: AsyncEngine,
    *,
    version: str,
    kind: str,
    task: str,
    directory: Path,
    parent: str | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> ModelVersion:
    """Record a published directory after checking it; the same one again is no error.

    Raises:
        ArtifactError: The directory has no manifest, or a file is missing or altered.
        RegistryConflict: That version is registered already, with other files.
        DatabaseError: The database is away.
    """
    await asyncio.to_thread(verify, directory)
    row = {
        "version": version,
        "kind": kind,
        "task": task,
        "path": _to_path(directory),
        "manifest_sha256": manifest_sha256(directory),
        "parent": parent,
        "created_at": datetime.now(UTC),
        "metrics": dict(metrics or {}),
    }
    with database_errors("a model was registered"):
        async with database.begin() as connection:
            await _insert_new(connection, row)
    found = await show(database, version)
    if (found.kind, found.task, found.manifest_sha256) != (kind, task, row["manifest_sha256"]):
        raise RegistryConflict(
            f"Version {version} is registered already, with other files or for another task, and a version never "
            "changes. Publish this model under a new version."
        )
    return found


async def show(database: AsyncEngine, version: str) -> ModelVersion:
    """Return one version. Raises RegistryConflict when there is none, DatabaseError when the database is away."""
    rows = await _read(database, select(model_versions).where(model_versions.c.version == version))
    if not rows:
        raise RegistryConflict(f"There is no model version {version}. `nextquery models list` shows those there are.")
    return _version(rows[0])


async def list_versions(database: AsyncEngine, kind: str | None = None) -> list[ModelVersion]:
    """Return every version, or those of one kind, newest first."""
    query = select(model_versions).order_by(model_versions.c.created_at.desc(), model_versions.c.version)
    return [_version(r) for r in await _read(database, query if kind is None else query.filter_by(kind=kind))]


async def list_champions(database: AsyncEngine) -> list[Champion]:
    """Return every champion, by kind and task."""
    return [_champion(r) for r in await _read(database, _CHAMPIONS.order_by(champions.c.kind, champions.c.task))]


async def champion(database: AsyncEngine, kind: str, task: str) -> Champion | None:
    """Return the version that serves `task`: its own, else that of "*", else None."""
    found = await _read(database, _CHAMPIONS.where(champions.c.kind == kind, champions.c.task.in_([task, ANY_TASK])))
    by_task = {row.task: _champion(row) for row in found}
    return by_task.get(task) or by_task.get(ANY_TASK)


async def promote(
    database: AsyncEngine, kind: str, task: str, version: str, *, expected_revision: int, fence: Fence | None = None
) -> Champion:
    """Make `version` the champion if nobody changed it since `expected_revision` was read; 0 means there was none.

    A new model for "*" retires the adapters on another one: tasks whose champion is such an adapter have no champion of
    their own any more.

    `fence`: of the job that promotes; in the same transaction it is checked that no later run took its place.

    Raises:
        RegistryConflict: Somebody else was first, the version is of another kind or task, or the job lost its lock.
        ArtifactError: Its files are not what was registered.
    """
    model = await show(database, version)
    if model.kind != kind or model.task not in (task, ANY_TASK):
        raise RegistryConflict(
            f"Version {version} is a {model.kind} for task {model.task!r}; it cannot serve as {kind} for {task!r}. "
            "Promote it for its own task."
        )
    await asyncio.to_thread(_check_files, model)
    outlived = await _outlived_by(database, model) if task == ANY_TASK else frozenset()
    with database_errors("a model was promoted"):
        async with database.begin() as connection:
            if fence is not None:
                await check_fence(connection, fence)
            won = await _compare_and_set(connection, kind, task, version, expected_revision)
            if won and outlived:
                gone = (champions.c.kind == kind, champions.c.task != ANY_TASK, champions.c.version.in_(outlived))
                await connection.execute(delete(champions).where(*gone))
    if not won:
        raise RegistryConflict(
            f"The champion of {kind} for {task!r} is not at revision {expected_revision} any more: somebody else "
            "changed it. Look with `nextquery models list`, and decide again."
        )
    (row,) = await _read(database, _CHAMPIONS.where(champions.c.kind == kind, champions.c.task == task))
    return _champion(row)


async def put_in_front(
    database: AsyncEngine,
    model: ModelVersion,
    *,
    task: str | None = None,
    expected_revision: int | None = None,
    fence: Fence | None = None,
) -> Champion:
    """Make a registered version the champion of `task`, over whichever is now; nothing changes if it is already.

    `task`: its own where none is given. `expected_revision`: of the champion that it won against; where
    another one serves by now, nothing changes. `fence`: see `promote`.

    Raises:
        RegistryConflict: Somebody else promoted another one meanwhile, it is for another task, or the job lost its lock.
        ArtifactError: Its files are not what was registered.
    """
    place = task or model.task
    own = _CHAMPIONS.where(champions.c.kind == model.kind, champions.c.task == place)
    present = next(map(_champion, await _read(database, own)), None)
    if present is not None and present.version == model.version:
        return present
    revision = present.revision if present else 0
    if expected_revision is not None:
        revision = expected_revision
    return await promote(database, model.kind, place, model.version, expected_revision=revision, fence=fence)


async def roll_back(database: AsyncEngine, kind: str, task: str) -> Champion:
    """Make the previous champion serve again; the present one becomes the previous.

    Raises:
        RegistryConflict: There is no previous one, or somebody changed the champion meanwhile.
        ArtifactError: The previous one's files are not what was registered.
    """
    rows = await _read(database, _CHAMPIONS.where(champions.c.kind == kind, champions.c.task == task))
    if not rows or rows[0].previous is None:
        raise RegistryConflict(f"There is no earlier {kind} for {task!r} to return to. Promote a version instead.")
    return await promote(database, kind, task, rows[0].previous, expected_revision=rows[0].revision)


async def retired(database: AsyncEngine, versions: Collection[str]) -> frozenset[str]:
    """The adapters among `versions` that stand on a model which no champion is, or stands on."""
    if not versions:
        return frozenset()
    serving = [each for each in await list_champions(database) if each.kind == "policy"]
    named = [
        _version(r) for r in await _read(database, select(model_versions).where(model_versions.c.version.in_(versions)))
    ]
    return await asyncio.to_thread(_standing_elsewhere, named, serving) if serving else frozenset()


async def ensure_starter(database: AsyncEngine, starter: Path = STARTER) -> Champion:
    """Make the shipped policy the champion of ("policy", "*") when there is none; safe for two replicas at once.

    A champion that is itself a shipped policy gives way to the one that is shipped now, since its files are gone.

    Raises:
        ArtifactError: The shipped policy is missing or altered.
        RegistryConflict: It was changed without getting a new version.
    """
    manifest = await asyncio.to_thread(verify, starter)
    version = str(manifest["version"])
    present = await champion(database, "policy", ANY_TASK)
    if present and (present.version == version or not await _was_shipped(database, present.version)):
        return present
    await register(database, version=version, kind="policy", task=ANY_TASK, directory=starter)
    try:
        revision = present.revision if present else 0
        return await promote(database, "policy", ANY_TASK, version, expected_revision=revision)
    except RegistryConflict:
        other = await champion(database, "policy", ANY_TASK)
        if other is None:
            raise
        return other


_CHAMPIONS = select(champions, model_versions.c.path, model_versions.c.manifest_sha256).join(
    model_versions, model_versions.c.version == champions.c.version
)


async def _outlived_by(database: AsyncEngine, model: ModelVersion) -> frozenset[str]:
    """Champions of single tasks that are adapters on another model than the one that `model` is, or stands on."""
    own = [each for each in await list_champions(database) if each.kind == model.kind and each.task != ANY_TASK]
    return await asyncio.to_thread(_standing_elsewhere, own, [model])


def _standing_elsewhere(
    named: Iterable[ModelVersion | Champion], serving: Iterable[ModelVersion | Champion]
) -> frozenset[str]:
    """The adapters among `named` that stand on a model which none of `serving` is, or stands on."""
    models = {_base_of(each.directory) or each.version for each in serving}
    return frozenset(each.version for each in named if (base := _base_of(each.directory)) and base not in models)


def _base_of(directory: Path) -> str | None:
    """The version of the model that an adapter stands on; None for a whole model, and for what cannot be read."""
    with suppress(ArtifactError, KeyError, TypeError):
        return str(read_manifest(directory)["base"]["version"])
    return None


async def _insert_new(connection: AsyncConnection, row: dict[str, Any]) -> None:
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    await connection.execute(dialect.insert(model_versions).values(row).on_conflict_do_nothing())


async def _compare_and_set(
    connection: AsyncConnection, kind: str, task: str, version: str, expected_revision: int
) -> bool:
    now = datetime.now(UTC)
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    first = {"kind": kind, "task": task, "version": version, "previous": None, "revision": 1, "changed_at": now}
    create = dialect.insert(champions).values(first).on_conflict_do_nothing()
    change = (
        update(champions)
        .where(champions.c.kind == kind, champions.c.task == task, champions.c.revision == expected_revision)
        .values(version=version, previous=champions.c.version, revision=champions.c.revision + 1, changed_at=now)
    )
    statement = create if expected_revision == 0 else change
    return (await connection.execute(statement.returning(champions.c.revision))).first() is not None


async def _was_shipped(database: AsyncEngine, version: str) -> bool:
    rows = await _read(database, select(model_versions.c.path).where(model_versions.c.version == version))
    return bool(rows) and rows[0].path.startswith(_STARTER_PREFIX)


def _check_files(model: ModelVersion) -> None:
    verify(model.directory)
    if manifest_sha256(model.directory) != model.manifest_sha256:
        raise ArtifactError(
            f"{model.directory} is not what was registered as {model.version}: its manifest changed. Restore it from a "
            "backup, or publish the model under a new version."
        )


async def _read(database: AsyncEngine, query: Select[Any]) -> list[Row[Any]]:
    with database_errors("the registry was read"):
        async with database.connect() as connection:
            return list((await connection.execute(query)).all())


def _to_path(directory: Path) -> str:
    """Return the path to store; that of a shipped policy stays right when the checkout moves."""
    whole = directory.resolve()
    return f"{_STARTER_PREFIX}{whole.name}" if whole.parent == STARTER.resolve().parent else str(whole)


def _to_directory(path: str) -> Path:
    return STARTER.parent / path.removeprefix(_STARTER_PREFIX) if path.startswith(_STARTER_PREFIX) else Path(path)


def _version(row: Row[Any]) -> ModelVersion:
    values = dict(row._mapping)
    return ModelVersion(directory=_to_directory(values.pop("path")), **values)


def _champion(row: Row[Any]) -> Champion:
    values = dict(row._mapping)
    return Champion(directory=_to_directory(values.pop("path")), **values)
