"""What mining asks of an SQL engine.

It knows nothing about DuckDB or Spark, nor about what is mined.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Protocol


class Engine(Protocol):
    """Runs statements over Parquet files. Views are replaced by new ones of the same name."""

    @property
    def version(self) -> str:
        """Engine, its version and its way to read a day: what another one kept of a day has other hashes of people."""

    def read_day(self, day: Path, day_before: Path | None, since: datetime) -> None:
        """Make the view `searches` of one day and, of the day before, its rows from `since` on.

        Columns: person (a hash of 63 bits: of the user, or of the session and negative when there is no user; null
        without both), stream_id (a hash of user and session), at_us (microseconds since 1970), position (of the row in
        its file, where rows of one moment stand in the order of search_id), query_id, query, origin, today (the row is
        of `day` itself).
        """

    def read(self, table: str, paths: Sequence[Path]) -> None:
        """Make the view `table` of what `write` wrote to `paths`; of no paths, an empty one (`statements.COLUMNS`)."""

    def write(self, sql: str, path: Path, sorted_by: Sequence[str] = ()) -> None:
        """Write the rows of `sql` to `path`: one Parquet file when they are sorted, else whatever `read` reads.

        Raises:
            ArtifactError: A file of a view is no Parquet file, or lacks a column.
            ConfigurationError: The memory or the disk of this machine is too small.
        """

    def row(self, sql: str) -> Mapping[str, int]:
        """The one row that `sql` gives, by column."""
