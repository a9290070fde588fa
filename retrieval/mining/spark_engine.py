"""Mining on a cluster: Apache Spark, on files that all of its machines can reach.

It knows nothing about what is mined.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.functions import col, lit

from retrieval.mining.statements import nothing
from service.contract.errors import ArtifactError

_SEARCHES = """
    CREATE OR REPLACE TEMP VIEW searches AS
    SELECT
        CASE
            WHEN user_id IS NOT NULL THEN shiftrightunsigned(xxhash64(user_id), 1)
            WHEN session_id IS NOT NULL THEN -1 - shiftrightunsigned(xxhash64(session_id), 1)
        END AS person,
        xxhash64(user_id, user_id IS NULL, session_id) AS stream_id, -- a null alone leaves xxhash64 as it was
        unix_micros(at) AS at_us,
        position, query_id, query, origin, today
    FROM log
"""

_Result = TypeVar("_Result")


class SparkEngine:
    """One session: the one that is given, else that of spark-submit, else one on all cores of this machine."""

    def __init__(self, session: SparkSession | None = None) -> None:
        self._is_ours = session is None
        self._spark = session or SparkSession.builder.appName("nextquery mining").getOrCreate()
        self._spark.conf.set("spark.sql.session.timeZone", "UTC")
        self._spark.conf.set("spark.sql.ansi.enabled", "true")

    @property
    def version(self) -> str:
        return f"spark {self._spark.version} {sha256(_SEARCHES.encode()).hexdigest()}"

    def read_day(self, day: Path, day_before: Path | None, since: datetime) -> None:
        def run() -> None:
            log = self._log(day).withColumn("today", lit(True))
            if day_before is not None:
                before = self._log(day_before).where(col("at") >= lit(since))
                log = log.unionByName(before.withColumn("today", lit(False)))
            log.createOrReplaceTempView("log")
            self._spark.sql(_SEARCHES)

        _run(run)

    def read(self, table: str, paths: Sequence[Path]) -> None:
        def run() -> None:
            rows = self._spark.read.parquet(*map(str, paths)) if paths else self._spark.sql(nothing(table))
            rows.createOrReplaceTempView(table)

        _run(run)

    def write(self, sql: str, path: Path, sorted_by: Sequence[str] = ()) -> None:
        if not sorted_by:
            _run(lambda: self._spark.sql(sql).write.parquet(str(path)))
            return
        parts = path.with_name(f".{path.name}")
        _run(lambda: self._spark.sql(sql).repartition(1).sortWithinPartitions(*sorted_by).write.parquet(str(parts)))
        (part,) = parts.glob("part-*.parquet")
        part.rename(path)
        shutil.rmtree(parts)

    def row(self, sql: str) -> Mapping[str, int]:
        return _run(lambda: self._spark.sql(sql).collect()[0].asDict())

    def close(self) -> None:
        """Stop the session, unless it was given."""
        if self._is_ours:
            self._spark.stop()

    def _log(self, day: Path) -> DataFrame:
        return self._spark.read.parquet(str(day)).select("*", col("_metadata.row_index").alias("position"))


def _run(work: Callable[[], _Result]) -> _Result:
    try:
        return work()
    except (PySparkException, Py4JJavaError) as error:
        raise ArtifactError(
            f"A file of the log cannot be read, or a result not be written: {error}. Usually the file was damaged, the "
            "disk is full, or a machine of the cluster cannot reach it: see Spark's own log."
        ) from error
