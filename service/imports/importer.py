"""Imports a log: read -> judge -> store, with every row ending as stored, there already, joined, or set aside.

It knows neither a format nor the command line. Rows are stored in the search log with origin `import`.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from service.contract.database import database_errors
from service.contract.errors import ConfigurationError, RowRefused
from service.contract.query_text import match_key, one_line
from service.contract.tables import DEFAULT_TENANT, searches
from service.contract.types import Origin
from service.events.inserter import Inserter, Outcome, Row, Write
from service.imports.checks import Check, State, check_all, many
from service.imports.rows import Fault, Item, LogFormat, RawRow, ReadOptions, Rejected, Repeat
from service.imports.set_aside import RejectedFile
from service.imports.tally import Search, Tally

LONGEST_QUERY = 1_000
"""Characters; what is longer was pasted rather than searched for."""
BATCH_ROWS = 10_000

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """Whose log it is and how to take it.

    `sessions_are_people`: a search without a user counts as one of a person of its session's own. `read.starting_at`:
    rows without a time get one, a second apart from this moment on.
    """

    tenant: str = DEFAULT_TENANT
    locale: str = "en"
    sessions_are_people: bool = False
    read: ReadOptions = field(default_factory=ReadOptions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What became of the rows: rows = searches + joined + set_aside, and searches = stored + already_there.

    When the log was only validated, nothing was stored: `searches` would be. `rejected`: the file of those set aside.
    """

    file: str
    format: str
    rows: int
    searches: int
    joined: int
    set_aside: int
    stored: int
    already_there: int
    rejected: Path | None
    checks: list[Check]
    only_validated: bool

    @property
    def is_sound(self) -> bool:
        """True when no check failed."""
        return all(check.state is not State.FAIL for check in self.checks)

    @property
    def took_something(self) -> bool:
        """True when a row was usable, or there was none at all."""
        return self.searches > 0 or (self.rows == 0 and not any(check.name == "file" for check in self._failed()))

    def summary(self) -> str:
        """What was done, in one or two sentences."""
        found, aside = many(self.searches, "search", "searches"), many(self.set_aside, "row", "rows")
        if self.only_validated:
            return f"Only checked: {found} could be imported, {aside} could not."
        done = f"{many(self.stored, 'search', 'searches')} imported; {self.already_there:,} were there and stay as they are."
        if self.rejected is None:
            return done
        return f"{done} {aside} set aside in {self.rejected}, the reasons beside it: mend them there, and import that file."

    def _failed(self) -> Iterator[Check]:
        return (check for check in self.checks if check.state is State.FAIL)


def import_logs(
    database: AsyncEngine,
    paths: Iterable[Path],
    log_format: LogFormat,
    options: ImportOptions,
    aside: Path | None,
    progress: Callable[[str], object],
) -> Iterator[Report]:
    """Import one log after the other, as `import_log` does; `progress` is told how far it is."""
    with closing(Inserter(database)) as inserter:
        if aside is not None:
            with database_errors("an import was begun"):
                inserter.open()
        for path in paths:
            yield import_log(path, log_format, options, inserter, aside, progress)


def import_log(
    path: Path,
    log_format: LogFormat,
    options: ImportOptions,
    inserter: Inserter,
    aside: Path | None,
    progress: Callable[[str], object] = lambda text: None,
) -> Report:
    """Read the log at `path` and store it; rejected rows go into a file in the directory `aside`.

    With `aside` None it is only checked: nothing is stored or written, and `inserter` need not be open. Importing a
    log again stores nothing. Blocking; memory stays flat.

    Raises:
        DatabaseError: The database is away. What was stored before stays; import again to go on.
        ConfigurationError: The rejected rows cannot be kept.
    """
    name = f"{path.stem}.{log_format.name}"
    with RejectedFile(aside or path.parent, name, log_format.row_end) as rejected:
        run = _Run(options, inserter, rejected, stores=aside is not None)
        for number, item in enumerate(_read(path, log_format, options.read, run.tally), 1):
            run.take(item)
            if number % BATCH_ROWS == 0:
                progress(f"{path.name}: {number:,} rows")
        run.store()
        kept = rejected.publish() if aside is not None else None
    return Report(
        file=str(path),
        format=log_format.name,
        rows=run.tally.rows,
        searches=run.tally.searches,
        joined=run.tally.joined,
        set_aside=run.tally.faults.total(),
        stored=run.stored,
        already_there=run.already_there,
        rejected=kept,
        checks=check_all(run.tally),
        only_validated=aside is None,
    )


def _read(path: Path, log_format: LogFormat, options: ReadOptions, tally: Tally) -> Iterator[Item]:
    try:
        with path.open("rb") as file:
            yield from log_format.read(file, options)
    except ConfigurationError as error:
        tally.broken = str(error)
    except OSError as error:
        tally.broken = f"It cannot be read: {error.strerror}."


class _Run:
    """One import on its way: what was counted, and the searches that wait to be stored."""

    def __init__(self, options: ImportOptions, inserter: Inserter, rejected: RejectedFile, *, stores: bool) -> None:
        self.tally = Tally(datetime.now(UTC))
        self.stored = 0
        self.already_there = 0
        self._options = options
        self._inserter = inserter
        self._rejected = rejected
        self._stores = stores
        self._waiting: list[tuple[Search, Row]] = []

    def take(self, item: Item) -> None:
        judged = judge(item, self._options) if isinstance(item, RawRow) else item
        if isinstance(judged, Search):
            self._accept(judged)
        elif isinstance(judged, Rejected):
            self._reject(judged)
        elif isinstance(judged, Repeat):
            self.tally.joined += 1
        else:
            self._rejected.begin_with(judged.raw)

    def _accept(self, search: Search) -> None:
        try:
            row = self._inserter.encode(Write(table=searches.name, row=_values(search, self._options)))
        except RowRefused as refused:
            return self._reject(Rejected(search.number, search.raw, Fault.REFUSED, str(refused).rstrip(".")))
        self.tally.count(search)
        if self._stores:
            self._waiting.append((search, row))
        if len(self._waiting) >= BATCH_ROWS:
            self.store()

    def store(self) -> None:
        with database_errors("searches were imported"):
            self._inserter.insert([row for _, row in self._waiting])
        for search, row in self._waiting:
            self.stored += row.outcome is Outcome.STORED
            self.already_there += row.outcome is Outcome.DUPLICATE
            if row.outcome is Outcome.REFUSED:
                refused = Rejected(search.number, search.raw, Fault.REFUSED, "the database refuses it")
                self.tally.refuse(refused)
                self._rejected.add(refused)
        self._waiting.clear()

    def _reject(self, rejected: Rejected) -> None:
        self.tally.reject(rejected)
        if self._stores:
            self._rejected.add(rejected)


def judge(row: RawRow, options: ImportOptions) -> Search | Rejected:
    """The search that `row` is, or why it cannot be one."""
    query = one_line(row.query)
    key = match_key(query)
    if not key:
        return Rejected(row.number, row.raw, Fault.NO_QUERY, "its query is empty")
    if len(query) > LONGEST_QUERY:
        reason = f"its query has {len(query):,} characters, more than {LONGEST_QUERY:,}"
        return Rejected(row.number, row.raw, Fault.TOO_LONG, reason)
    at = row.at or _place_as_time(row.number, options.read.starting_at)
    if at is None:
        return Rejected(row.number, row.raw, Fault.NO_TIME, "it has no time; --starting-at gives times to such rows")
    user = row.user
    if user is None and row.session is not None and options.sessions_are_people:
        user = _person_of(row.session)
    return Search(row.number, row.raw, query, key, user, row.session, at, row.at is not None)


def _person_of(session: str | None) -> str:
    return f"session:{session}"


def _place_as_time(number: int, starting_at: datetime | None) -> datetime | None:
    try:
        return starting_at and starting_at + timedelta(seconds=number - 1)
    except OverflowError:
        return None


def _values(search: Search, options: ImportOptions) -> dict[str, Any]:
    return {
        "search_id": _search_id(search, options.tenant),
        "at": search.at,
        "tenant": options.tenant,
        "user_id": search.user,
        "session_id": search.session,
        "query": search.query,
        "match_key": search.match_key,
        "locale": options.locale,
        "origin": Origin.IMPORT.value,
    }


def _search_id(search: Search, tenant: str) -> str:
    """30 hexadecimal characters that sort by time, then by place in the log: milliseconds, row, hash of the content.

    Not the name of the file: one that was moved stays the same log. Two logs without times or people of their own
    should therefore start at different moments.
    """
    user = None if search.user == _person_of(search.session) else search.user  # one id, whichever way it is imported
    content = repr((tenant, user, search.session, search.query, search.at)).encode()
    digest = hashlib.blake2b(content, digest_size=4).hexdigest()
    return f"{max(0, (search.at - _EPOCH) // _MILLISECOND):012x}{search.number:010x}{digest}"
