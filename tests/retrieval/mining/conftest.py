"""What the tests of mining share: one running DuckDB.

It knows nothing about what is mined.
"""

from collections.abc import Iterator

import pytest

from retrieval.mining.duckdb_engine import DuckDBEngine


@pytest.fixture(scope="session")
def duckdb_engine() -> Iterator[DuckDBEngine]:
    """An engine of two threads."""
    engine = DuckDBEngine(threads=2)
    yield engine
    engine.close()
