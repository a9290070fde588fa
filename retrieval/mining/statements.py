"""The SQL of mining: one text for every engine, with its numbers filled in.

It knows nothing about engines or files. The texts lie beside it, one statement a file.
"""

import hashlib
from datetime import date
from pathlib import Path

DAY_STATEMENTS = ("steps", "bots", "surfaces", "day_counts")
"""The statements of one day; whoever changes one of them changes what every day gives."""

COLUMNS = {
    "steps": {"person": "BIGINT", "prev_id": "BIGINT", "query_id": "BIGINT", "day": "DATE"},
    "bots": {"person": "BIGINT"},
    "surfaces": {"query_id": "BIGINT", "query": "STRING", "n": "BIGINT"},
}
"""What is kept of a day: tables, their columns and types. `person` and ids are 64-bit hashes."""


def statement(name: str, **values: int | date) -> str:
    """The text of `<name>.sql`, with `values` in the place of {their names}."""
    return _text(name).format(**values)


def nothing(table: str) -> str:
    """A statement that gives no row, in the columns of `table`."""
    columns = ", ".join(f"CAST(NULL AS {kind}) AS {name}" for name, kind in COLUMNS[table].items())
    return f"SELECT {columns} WHERE 1 = 0"


def fingerprint() -> str:
    """SHA-256 of all statements of a day."""
    return hashlib.sha256("\n".join(map(_text, DAY_STATEMENTS)).encode()).hexdigest()


def _text(name: str) -> str:
    return Path(__file__).with_name(f"{name}.sql").read_text(encoding="utf-8")
