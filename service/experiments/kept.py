"""The experiments in force: the file, read when it changes; the database, which other replicas and jobs change too.

It knows nothing about requests. Whatever goes wrong, what was in force stays in force.
"""

import logging
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncEngine

from service.contract.errors import ConfigurationError, DatabaseError
from service.experiments import store
from service.experiments.assignment import Assigner
from service.experiments.definitions import Experiments, read_experiments

_LOG = logging.getLogger(__name__)


class KeptExperiments:
    """What runs now. `problem` says why the file is not followed; `assigner` gives each request its arms."""

    def __init__(self, database: AsyncEngine, file: Path) -> None:
        self._database, self._file = database, file
        self._followed: tuple[int, int, int] | None = None
        self.now = Experiments()
        self.assigner = Assigner(self.now)
        self.problem: str | None = None

    @property
    def policies(self) -> frozenset[str]:
        """The versions that arms, or the hold-out, name."""
        return frozenset(change.policy for each in self.now.all for change in each.changes if change.policy)

    @property
    def needs_predictor(self) -> bool:
        """True where an arm lets the click predictor choose."""
        return any(change.rerank not in (None, "off") for each in self.now.all for change in each.changes)

    async def refresh(self) -> None:
        """Follow the file where it changed, and take up what the database says."""
        try:
            kept = await store.list_experiments(self._database)
            was_file = any(each.source == "file" and each.ended_at is None for each in kept)
            problem, changed = await self._follow_file(was_file)
            self._take_up(store.running_of(await store.list_experiments(self._database) if changed else kept))
        except DatabaseError as error:
            problem = str(error)
        if problem and problem != self.problem:
            _LOG.error("The experiments stay as they are: %s", problem)
        self.problem = problem

    async def _follow_file(self, was_file: bool) -> tuple[str | None, bool]:
        """Why the file is refused, and whether it was taken up. One that was refused is tried again: what it names may be
        registered meanwhile. `was_file`: something runs that a file said, so that it must be there.
        """
        stamp = _stamp(self._file)
        if stamp == self._followed if stamp else not was_file:
            return None, False
        try:
            for sentence in await store.apply(self._database, read_experiments(self._file)):
                _LOG.info("Experiments: %s", sentence)
        except ConfigurationError as error:
            return str(error), False
        self._followed = stamp
        return None, True

    def _take_up(self, found: Experiments) -> None:
        if found != self.now:
            self.now, self.assigner = found, Assigner(found)


def _stamp(file: Path) -> tuple[int, int, int] | None:
    """What changes when the file does; None where there is none."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
