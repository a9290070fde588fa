"""Arrays on disk that grow while they are written and are mapped into memory when they are read.

It knows nothing about what is in them.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import ArrayLike, NDArray

_COLUMNS = "columns.json"


class ArrayWriter:
    """Appends to the arrays of one directory, one file each; as a context manager it finishes them at the end."""

    def __init__(self, directory: Path, columns: Mapping[str, str]) -> None:
        """Begin empty arrays: `columns` gives the NumPy type of each."""
        directory.mkdir(parents=True, mode=0o700)
        self._directory = directory
        self._columns = dict(columns)
        self._files: dict[str, BinaryIO] = {name: (directory / f"{name}.bin").open("wb") for name in columns}

    def append(self, name: str, values: ArrayLike) -> None:
        """Add `values` at the end of the array `name`."""
        self._files[name].write(np.asarray(values, self._columns[name]).tobytes())

    def __enter__(self) -> "ArrayWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files.values():
            file.close()
        (self._directory / _COLUMNS).write_text(json.dumps(self._columns))


def open_arrays(directory: Path) -> dict[str, NDArray[Any]]:
    """Every array of a directory, mapped read-only; only what is touched is read from disk."""
    columns: dict[str, str] = json.loads((directory / _COLUMNS).read_text())
    return {name: _open(directory / f"{name}.bin", dtype) for name, dtype in columns.items()}


def _open(path: Path, dtype: str) -> NDArray[Any]:
    if path.stat().st_size == 0:  # an empty file cannot be mapped
        return np.empty(0, dtype)
    return np.memmap(path, dtype, mode="r")
