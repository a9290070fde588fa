"""Snapshots: a frozen window of the log as Parquet, under a sealed manifest.

It knows nothing about what is learned from the rows. Batch code reads snapshots, never the tables of the log.

    <from>--<to>/
      manifest.json                   window, tenant, versions, rows of each table and day, SHA-256 of every file
      columns.json                    columns of each table, with their Arrow types
      searches/2026-11-20.parquet     rows of one UTC day by (at, primary key); a day without rows has no file
      impressions/..., clicks/...

The same rows give the same bytes whichever database holds them; neither the time of writing nor a path is in a file.
"""

import json
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from shutil import rmtree
from typing import Any
from urllib.parse import quote

from sqlalchemy import Table
from sqlalchemy.ext.asyncio import AsyncEngine

from service.contract.artifact import publish, seal, verify
from service.contract.database import check_schema, head_revision
from service.contract.errors import ArtifactError, ConfigurationError
from service.contract.log_files import TABLES, Window, file_name, schema_of, write_log, write_rows
from service.contract.tables import DEFAULT_TENANT

KIND = "snapshot"
SETTLED_AFTER = timedelta(seconds=60)
"""Rows younger than this may still be on their way into the log."""


WriteDay = Callable[[Table, date, Sequence[Mapping[str, Any]]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The rows of `tenant` in [since, until), frozen in `directory`."""

    directory: Path
    since: datetime
    until: datetime
    tenant: str
    manifest: Mapping[str, Any]

    def files(self, table: str) -> dict[date, Path]:
        """The Parquet file of every UTC day on which `table` has rows, oldest first."""
        days = map(date.fromisoformat, sorted(self.manifest["counts"][table]))
        return {day: self.directory / file_name(table, day) for day in days}

    def rows(self, table: str) -> int:
        """Rows of `table` in the whole window."""
        return sum(self.manifest["counts"][table].values())

    def sha256(self, path: Path) -> str:
        """SHA-256 of one of its files, as the manifest has it."""
        return str(self.manifest["files"][str(path.relative_to(self.directory))])


def open_snapshot(directory: Path) -> Snapshot:
    """The snapshot in `directory`, after every file was compared with the manifest.

    Raises:
        ArtifactError: It is no snapshot, or a file is missing or altered.
    """
    manifest = verify(directory)
    if manifest.get("kind") != KIND:
        raise ArtifactError(
            f"{directory} is no snapshot: its manifest says {manifest.get('kind')!r}. `nextquery snapshot` takes one."
        )
    since, until = (datetime.fromisoformat(manifest[name]) for name in ("from", "to"))
    return Snapshot(directory=directory, since=since, until=until, tenant=manifest["tenant"], manifest=manifest)


async def take_snapshot(
    database: AsyncEngine,
    since: datetime,
    until: datetime,
    output: Path,
    *,
    tenant: str = DEFAULT_TENANT,
    replace: bool = False,
) -> tuple[Snapshot, bool]:
    """Freeze the rows of `tenant` in [since, until) at `output`; returns it, and whether it was written now.

    One that is there already with the same window and rows stays; one with others is refused, unless `replace`.

    Raises:
        ConfigurationError: The window is empty or not settled yet, or `output` holds something else or cannot be made.
        DatabaseError: The database is away, or its schema is not ours.
    """
    _check_window(since, until)
    await check_schema(database)
    window = Window(since=since.astimezone(UTC), until=until.astimezone(UTC), tenant=tenant)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=".snapshot-") as scratch:
            draft = Path(scratch) / "draft"
            draft.mkdir()
            counts = await write_log(database, window, draft)
            _seal(draft, window, counts)
            is_new = _put(draft, output, replace)
    except OSError as error:
        raise ConfigurationError(
            f"The snapshot {output} cannot be written: {error.strerror or error}. Make room, or name another place."
        ) from error
    return open_snapshot(output), is_new


@contextmanager
def composed_snapshot(output: Path, since: datetime, until: datetime) -> Iterator[WriteDay]:
    """A function that takes the rows of one table and UTC day; at the end they are the snapshot `output`.

    For rows that no database holds, such as those of a simulation.

    Raises:
        ArtifactError: `output` is there already.
        ConfigurationError: The window is empty.
    """
    if since >= until:
        raise ConfigurationError(f"There is no moment from {since.isoformat()} until before {until.isoformat()}.")
    window = Window(since=since, until=until, tenant=DEFAULT_TENANT)
    counts: dict[str, dict[str, int]] = {table.name: {} for table in TABLES}
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".snapshot-") as scratch:

        def write_day(table: Table, day: date, rows: Sequence[Mapping[str, Any]]) -> None:
            if rows:
                counts[table.name][day.isoformat()] = write_rows(table, day, rows, draft)

        draft = Path(scratch) / "draft"
        draft.mkdir()
        yield write_day
        _seal(draft, window, counts)
        publish(draft, output)


def parse_moment(text: str) -> datetime:
    """A moment from an ISO date, which is its midnight, or a date and time; UTC where no zone is said.

    Raises:
        ConfigurationError: It is neither.
    """
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ConfigurationError(
            f"{text!r} is no moment. Write a date such as 2026-11-20, which is its midnight in UTC, or a time such as "
            "2026-11-20T06:30:00+01:00."
        ) from None


def directory_name(since: datetime, until: datetime, tenant: str = DEFAULT_TENANT) -> str:
    """A short name that sorts by time: 2026-11-19--2026-11-20 where both ends are midnight."""
    window = f"{_short(since)}--{_short(until)}"
    return window if tenant == DEFAULT_TENANT else f"{window}--{quote(tenant, safe='')}"


def _check_window(since: datetime, until: datetime) -> None:
    if since >= until:
        raise ConfigurationError(
            f"There is no moment from {since.isoformat()} until before {until.isoformat()}. The end of a window is the "
            "first moment after it, so it must be later than its start."
        )
    settled = datetime.now(UTC) - SETTLED_AFTER
    if until > settled:
        raise ConfigurationError(
            f"The window ends at {until.isoformat()}, which is not {SETTLED_AFTER.seconds} seconds ago. Rows may still "
            "be on their way into the log, and two snapshots of one window would differ: end it at "
            f"{settled.replace(microsecond=0).isoformat()} or earlier."
        )


def _seal(draft: Path, window: Window, counts: Mapping[str, Mapping[str, int]]) -> None:
    columns = {table.name: {field.name: str(field.type) for field in schema_of(table)} for table in TABLES}
    (draft / "columns.json").write_text(json.dumps(columns, indent=2) + "\n")
    manifest = {
        "kind": KIND,
        "from": window.since.isoformat(),
        "to": window.until.isoformat(),
        "tenant": window.tenant,
        "schema_revision": head_revision(),
        "versions": {package: version(package) for package in ("nextquery", "pyarrow")},
        "counts": counts,
    }
    seal(draft, manifest)


def _put(draft: Path, output: Path, replace: bool) -> bool:
    """Publish `draft` as `output`; returns False when the same snapshot is there already."""
    if not output.exists():
        publish(draft, output)
        return True
    if _says(draft) == _says(output):
        return False
    if not replace:
        raise ConfigurationError(
            f"{output} is there already and is not what the log holds now. Usually people were forgotten or rows were "
            "imported since it was taken, or another version of nextquery took it. Take it anew with --replace, or "
            "name another place with --output."
        )
    old = output.with_name(f".{output.name}.{uuid.uuid4().hex}")
    output.rename(old)
    publish(draft, output)
    rmtree(old)
    return True


def _says(directory: Path) -> list[Any]:
    """What two snapshots of the same rows have in common; versions of packages are not part of it."""
    snapshot = open_snapshot(directory)
    return [snapshot.since, snapshot.until, snapshot.tenant, snapshot.manifest["files"]]


def _short(moment: datetime) -> str:
    whole = moment.astimezone(UTC)
    if whole.time() == datetime.min.time():
        return f"{whole:%Y-%m-%d}"
    return f"{whole:%Y-%m-%dT%H%M%S}" + (f".{whole.microsecond:06d}" if whole.microsecond else "")
