"""The dictionary as a memory-mapped file in this process: LMDB, opened for reading.

It knows nothing about Redis. The file is part of the artefact, and all processes of a machine share its pages.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import lmdb

from retrieval.dictionaries import NextQuery, from_bytes, from_key, to_bytes, to_key
from service.contract.errors import ArtifactError

_BUILD = b"build"  # shorter than the key of a query, and so never one
_BATCH = 20_000
_MOST_BYTES = 1 << 40  # of address space; the file is as big as its entries


class MappedDictionary:
    """D_coo in a file."""

    def __init__(self, path: Path) -> None:
        """Open the file.

        Raises:
            ArtifactError: It is no dictionary.
        """
        try:
            self._environment = lmdb.open(str(path), subdir=False, readonly=True, lock=False, readahead=False)
            with self._environment.begin() as reading:
                self.build = reading.get(_BUILD, b"").decode()
        except lmdb.Error as error:
            raise ArtifactError(
                f"{path} is no dictionary ({error}). Build it again: `nextquery retrieval build`."
            ) from None

    async def next_queries(self, query_ids: Sequence[int]) -> list[tuple[NextQuery, ...]]:
        """What followed each query; a look into mapped memory."""
        with self._environment.begin(buffers=True) as reading:
            found = [reading.get(to_key(query_id)) for query_id in query_ids]
            return [from_bytes(bytes(entry)) if entry is not None else () for entry in found]

    def entries(self) -> Iterator[tuple[int, bytes]]:
        """Every query id with its entry as kept, for copying them elsewhere."""
        with self._environment.begin() as reading:
            yield from ((from_key(key), entry) for key, entry in reading.cursor() if key != _BUILD)

    async def close(self) -> None:
        """Unmap the file."""
        self._environment.close()


def write_dictionary(path: Path, build: str, entries: Iterable[tuple[int, Sequence[NextQuery]]]) -> int:
    """Write the file; returns the number of entries, which must come in the order of `to_key`: so they fill its pages.

    Raises:
        ValueError: They do not.
    """
    count = 0
    with lmdb.open(str(path), subdir=False, map_size=_MOST_BYTES, lock=False, writemap=False) as environment:
        writing = environment.begin(write=True)
        for query_id, next_queries in entries:
            if not writing.put(to_key(query_id), to_bytes(next_queries), append=True):
                raise ValueError(f"The entry of {query_id} comes out of order.")
            count += 1
            if count % _BATCH == 0:
                writing.commit()
                writing = environment.begin(write=True)
        writing.put(_BUILD, build.encode())  # not in order: it sorts behind many keys of queries
        writing.commit()
    return count
