"""Lays a snapshot of the log into a database, as a service would have written it."""

import json

import pyarrow.parquet as pq
from sqlalchemy import insert

from service.contract import database
from service.contract.log_files import TABLES
from service.contract.settings import Timeouts
from service.contract.snapshot import Snapshot

_JSON_COLUMNS = ("context", "sampling", "candidates", "texts", "timings")


async def lay_log(snapshot: Snapshot, url: str) -> None:
    """Insert every row of the snapshot into the tables at `url`, which are there already."""
    opened = database.create(url, Timeouts())
    try:
        for table in TABLES:
            for file in snapshot.files(table.name).values():
                rows = pq.read_table(file).to_pylist()
                for row in rows:
                    row |= {name: json.loads(row[name]) for name in _JSON_COLUMNS if name in row}
                async with opened.begin() as connection:
                    await connection.execute(insert(table), rows)
    finally:
        await opened.dispose()
