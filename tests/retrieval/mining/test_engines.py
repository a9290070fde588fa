"""One SQL text gives the same triples on DuckDB and on Spark; DuckDB takes more memory only when it must."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retrieval.mining.duckdb_engine import DuckDBEngine
from retrieval.mining.engine import Engine
from retrieval.mining.mine import mine
from retrieval.mining.report import MiningReport
from retrieval.mining.rules import MiningRules
from retrieval.mining.spark_engine import SparkEngine
from service.contract.errors import ArtifactError, ConfigurationError
from service.contract.snapshot import Snapshot
from tests.conftest import require
from tests.retrieval.mining.logs import NOON, id_of, random_log, sealed, snapshot, walk

RULES = MiningRules(k=2, per_person_cap=2, bot_queries_per_day=20)


@pytest.fixture(scope="module")
def spark() -> Iterator[SparkEngine]:
    """Spark on two threads of this machine."""
    require(
        shutil.which("java") or os.environ.get("JAVA_HOME"), "Spark needs Java: install a JRE of version 17 or newer."
    )
    from pyspark.sql import SparkSession

    quiet = {"spark.ui.enabled": "false", "spark.sql.shuffle.partitions": "2", "spark.driver.memory": "1g"}
    session = SparkSession.builder.master("local[2]").config(map=quiet).getOrCreate()
    yield SparkEngine(session)
    session.stop()


def mined(log: Snapshot, engine: Engine, output: Path) -> tuple[MiningReport, list[pa.Table]]:
    """The report without its time, and both tables without what engines write beside the data."""
    report = mine(log, output, RULES, engine=engine)
    tables = [pq.read_table(output / f"{name}.parquet").replace_schema_metadata() for name in ("triples", "queries")]
    nullable = [pa.schema([field.with_nullable(True) for field in table.schema]) for table in tables]
    return replace(report, seconds=0), [table.cast(s) for table, s in zip(tables, nullable, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_both_engines_give_the_same(duckdb_engine: DuckDBEngine, spark: SparkEngine, tmp_path: Path, seed: int) -> None:
    log = snapshot(tmp_path / "log", random_log(seed, size=2_000, people=40))

    one = mined(log, duckdb_engine, tmp_path / "duckdb")
    other = mined(log, spark, tmp_path / "spark")

    assert one == other
    assert one[0].bots
    assert one[0].triples


@pytest.mark.slow
def test_both_engines_give_nothing_for_an_empty_log(
    duckdb_engine: DuckDBEngine, spark: SparkEngine, tmp_path: Path
) -> None:
    log = snapshot(tmp_path / "log", [])

    assert mined(log, duckdb_engine, tmp_path / "duckdb") == mined(log, spark, tmp_path / "spark")


@pytest.mark.slow
def test_spark_names_a_file_that_it_cannot_read(spark: SparkEngine, tmp_path: Path) -> None:
    snapshot(tmp_path / "log", walk("rice", "pasta", people=["ann"]))
    (path,) = (tmp_path / "log" / "searches").iterdir()
    path.write_bytes(b"this is no Parquet file")

    with pytest.raises(ArtifactError, match=path.name):
        mine(sealed(tmp_path / "log", {NOON.date(): 2}), tmp_path / "triples", RULES, engine=spark)


def test_duckdb_takes_more_memory_when_it_cannot_do_with_less(tmp_path: Path) -> None:
    log = snapshot(tmp_path / "log", random_log(1, size=2_000, people=40))
    poor, rich = DuckDBEngine(threads=2, memory_mb_per_thread=1), DuckDBEngine(threads=2)

    found = [mined(log, engine, tmp_path / "triples") for engine in (poor, rich)]

    assert found[0] == found[1]
    poor.close()
    rich.close()


def test_duckdb_says_when_the_machine_is_too_small(tmp_path: Path) -> None:
    log = snapshot(tmp_path / "log", random_log(1, size=2_000, people=40))
    engine = DuckDBEngine(threads=2, memory_mb_per_thread=1, most_memory_mb=2)

    with pytest.raises(ConfigurationError, match="needs more memory or disk than there is"):
        mine(log, tmp_path / "triples", RULES, engine=engine)

    engine.close()


def test_a_directory_for_spilling_is_gone_when_the_engine_is_closed(tmp_path: Path) -> None:
    engine = DuckDBEngine(tmp_path)
    during = list(tmp_path.iterdir())

    engine.close()

    assert len(during) == 1
    assert not list(tmp_path.iterdir())


def test_a_session_of_a_million_rows_is_dropped_with_a_count_and_harms_nobody(tmp_path: Path) -> None:
    log = snapshot(tmp_path / "log", walk("rice", "pasta", people=["ann", "bob"]))
    (path,) = log.files("searches").values()
    endless = f"""
        SELECT lpad(CAST(n AS VARCHAR), 32, '0') AS search_id, "at" + n * INTERVAL 1 MILLISECOND AS "at",
            CAST(NULL AS VARCHAR) AS user_id, 'endless' AS session_id, 'q' || n % 1000 AS query, 'q' || n % 1000 AS match_key,
            locale, origin, impression_id, n % 1000 AS query_id
        FROM (FROM '{path}' LIMIT 1), range(1_000_000) AS numbers(n)
    """
    both = tmp_path / "both.parquet"
    duckdb.sql(f"{endless} UNION ALL BY NAME FROM '{path}'").write_parquet(str(both))
    both.rename(path)
    engine = DuckDBEngine(threads=2)

    report, (triples, _) = mined(sealed(tmp_path / "log", {NOON.date(): 1_000_004}), engine, tmp_path / "triples")

    engine.close()
    assert (report.rows_read, report.bots, report.rows_of_bots) == (1_000_004, 1, 1_000_000)
    assert triples.column("count").to_pylist() == [2]
    assert triples.column("next_id").to_pylist() == [id_of("pasta")]
