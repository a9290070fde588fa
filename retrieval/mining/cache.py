"""Mined days are kept, so that a night mines only the new one, and a day that was changed since.

It knows nothing about what is in them.
"""

import re
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from retrieval.mining.day import MinedDay
from service.contract.artifact import publish, seal, verify
from service.contract.errors import ArtifactError

_ENTRY = re.compile(r"\.?\d{4}-\d\d-\d\d-[0-9a-f]{32}.*")


class DayCache:
    """One sealed directory a day, named by its key."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def get(self, key: str) -> MinedDay | None:
        """A day; None when it is not there, or was damaged."""
        try:
            counts = verify(self._directory / key)["counts"]
        except ArtifactError:
            return None
        return MinedDay(directory=self._directory / key, counts=counts, is_from_cache=True)

    def put(self, key: str, day: MinedDay) -> MinedDay:
        """Keep the files of `day`; returns it where it is now."""
        seal(day.directory, {"counts": dict(day.counts)})
        shutil.rmtree(self._directory / key, ignore_errors=True)  # a damaged one
        publish(day.directory, self._directory / key)
        return replace(day, directory=self._directory / key)

    def forget_all_but(self, keys: Iterable[str]) -> None:
        """Delete every other day: what was erased from the log must not live on here."""
        kept = set(keys)
        for entry in self._directory.glob("*"):
            if _ENTRY.fullmatch(entry.name) and entry.name not in kept:
                shutil.rmtree(entry)
