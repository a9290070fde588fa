"""Keeps rejected rows, byte by byte, in a file of the log's own format, and beside it a list of the reasons.

It knows no format: a format says what stands before the first row, and what between two.
"""

import filecmp
import os
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import BinaryIO, Self, TextIO

from service.contract.errors import ConfigurationError
from service.imports.rows import Rejected


class RejectedFile:
    """`<name>.rejected`, which can be mended and imported, and `<name>.rejected.reasons.tsv`.

    Neither appears before `publish`, nor when no row was rejected. A file of that name with other rows stays, and the
    new one gets a number.
    """

    def __init__(self, directory: Path, name: str, row_end: bytes) -> None:
        self._directory = directory
        self._name = name
        self._row_end = row_end
        self._head = b""
        self._last_number, self._is_between_rows = 0, True
        self._draft = directory / f".{name}.{uuid.uuid4().hex}"
        self._reasons_draft = Path(f"{self._draft}.reasons")
        self._opened: tuple[BinaryIO, TextIO] | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        for path in (self._draft, self._reasons_draft):
            path.unlink(missing_ok=True)

    def begin_with(self, head: bytes) -> None:
        """What stands before the first row."""
        self._head = self._head or head

    def add(self, rejected: Rejected) -> None:
        """Append a row and its reason. Raises ConfigurationError when there is no room."""
        with self._room():
            rows, reasons = self._opened or self._open()
            if not self._is_between_rows and rejected.number != self._last_number:
                rows.write(self._row_end)
            rows.write(rejected.raw)
            reasons.write(f"{rejected.number}\t{rejected.fault}\t{rejected.reason}\n")
            self._last_number, self._is_between_rows = rejected.number, rejected.raw.endswith(self._row_end)

    def publish(self) -> Path | None:
        """Make both files appear; returns the one of the rows, or None when there is none."""
        if self._opened is None:
            return None
        with self._room():
            self._stack.close()
            place = next(path for path in self._places() if not path.exists() or filecmp.cmp(self._draft, path, False))
            os.replace(self._draft, place)
            os.replace(self._reasons_draft, f"{place}.reasons.tsv")
        return place

    def _places(self) -> Iterator[Path]:
        yield self._directory / f"{self._name}.rejected"
        yield from (self._directory / f"{self._name}-{number}.rejected" for number in count(2))

    def _open(self) -> tuple[BinaryIO, TextIO]:
        self._directory.mkdir(parents=True, exist_ok=True)
        rows = self._stack.enter_context(self._draft.open("wb"))
        reasons = self._stack.enter_context(self._reasons_draft.open("w", encoding="utf-8"))
        rows.write(self._head)
        reasons.write("row\tfault\treason\n")
        self._opened = rows, reasons
        return self._opened

    @contextmanager
    def _room(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ConfigurationError(
                f"Rejected rows cannot be kept in {self._directory}: {error.strerror}. Make room, or set "
                "NEXTQUERY_DATA_DIR to another place; then import again, which stores nothing twice."
            ) from error
