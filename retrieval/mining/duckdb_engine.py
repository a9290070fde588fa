"""Mining on one machine: DuckDB, which spills to disk what does not fit into memory.

It knows nothing about what is mined.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

import duckdb
import psutil

from retrieval.mining.statements import nothing
from service.contract.errors import ArtifactError, ConfigurationError

_SEARCHES = """
    CREATE OR REPLACE VIEW searches AS
    SELECT
        CASE
            WHEN user_id IS NOT NULL THEN CAST(hash(user_id) >> 1 AS BIGINT)
            WHEN session_id IS NOT NULL THEN -1 - CAST(hash(session_id) >> 1 AS BIGINT)
        END AS person,
        hash(user_id, session_id) AS stream_id,
        epoch_us(log."at") AS at_us,
        file_row_number AS position,
        query_id, query, origin, today
    FROM (
        SELECT *, TRUE AS today FROM log_of_day UNION ALL BY NAME SELECT *, FALSE AS today FROM log_before
    ) AS log
"""

_Result = TypeVar("_Result")


class DuckDBEngine:
    """One connection. It begins with little memory, and takes more only when a statement cannot do with less.

    Args:
        spill: where a directory for what does not fit is made; the system's place for such by default.
        threads: all cores by default.
        memory_mb_per_thread: memory it begins with.
        most_memory_mb: memory it never exceeds; by default 80 % of the machine, as DuckDB has it.
    """

    def __init__(
        self,
        spill: Path | None = None,
        *,
        threads: int | None = None,
        memory_mb_per_thread: int = 64,
        most_memory_mb: int | None = None,
    ) -> None:
        self._spill = tempfile.TemporaryDirectory(dir=spill, prefix=".duckdb-")
        self._most_memory_mb = most_memory_mb or int(0.8 * psutil.virtual_memory().total / 2**20)
        self._database = duckdb.connect(
            config={"temp_directory": self._spill.name, "preserve_insertion_order": False}
            | ({} if threads is None else {"threads": threads})
        )
        self._database.execute("SET enable_progress_bar = false")  # it would write to stdout
        self._memory_mb = memory_mb_per_thread * self.row("SELECT current_setting('threads') AS threads")["threads"]
        self._limit_memory()

    @property
    def version(self) -> str:
        return f"duckdb {duckdb.__version__} {sha256(_SEARCHES.encode()).hexdigest()}"

    def read_day(self, day: Path, day_before: Path | None, since: datetime) -> None:
        self._view("log_of_day", lambda: self._log(day))
        later = f"\"at\" >= TIMESTAMPTZ '{since.isoformat()}'"
        self._view("log_before", lambda: self._log(day_before or day).filter(later if day_before else "false"))
        self._run(lambda: self._database.execute(_SEARCHES))

    def read(self, table: str, paths: Sequence[Path]) -> None:
        self._view(
            table,
            lambda: self._database.read_parquet([*map(str, paths)]) if paths else self._database.sql(nothing(table)),
        )

    def write(self, sql: str, path: Path, sorted_by: Sequence[str] = ()) -> None:
        def run() -> None:
            rows = self._database.sql(sql)
            (rows.order(", ".join(sorted_by)) if sorted_by else rows).write_parquet(str(path))

        self._run(run)

    def row(self, sql: str) -> Mapping[str, int]:
        def run() -> dict[str, int]:
            rows = self._database.sql(sql)
            return dict(zip(rows.columns, rows.fetchall()[0], strict=True))

        return self._run(run)

    def close(self) -> None:
        """Give back the memory and the disk."""
        self._database.close()
        self._spill.cleanup()

    def _log(self, day: Path) -> duckdb.DuckDBPyRelation:
        return self._database.read_parquet(str(day), file_row_number=True)

    def _view(self, name: str, rows: Callable[[], duckdb.DuckDBPyRelation]) -> None:
        self._run(lambda: rows().create_view(name))

    def _run(self, work: Callable[[], _Result]) -> _Result:
        while True:
            try:
                return work()
            except duckdb.OutOfMemoryException as error:
                self._take_more_memory(error)
            except (duckdb.IOException, duckdb.InvalidInputException, duckdb.BinderException) as error:
                raise ArtifactError(
                    f"A file of the log cannot be read, or a result not be written: {error}. Usually the file was "
                    "damaged or the disk is full: make room, or take the snapshot again."
                ) from error

    def _take_more_memory(self, error: Exception) -> None:
        self._memory_mb *= 2
        if self._memory_mb > self._most_memory_mb:
            raise ConfigurationError(
                f"DuckDB needs more memory or disk than there is ({error}). Mine fewer days at once, on a larger "
                "machine, or on a cluster with --engine spark."
            ) from error
        self._limit_memory()

    def _limit_memory(self) -> None:
        self._database.execute(f"SET memory_limit = '{self._memory_mb} MiB'")
