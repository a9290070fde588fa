"""What the commands of every package share: settings, a database for the length of a call, JSON and tables on stdout.

It knows no command. Everything heavy is imported when it is used, so that asking for help stays quick.
"""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from service.contract.settings import Settings

Result = TypeVar("Result")


def load_settings(**overrides: Any) -> "Settings":
    """The settings of this process; `overrides` go before the environment."""
    from service.contract.settings import load_settings as load

    return load(**overrides)


def with_database(
    settings: "Settings", act: "Callable[[AsyncEngine], Awaitable[Result]]", *, check: bool = True
) -> Result:
    """What `act` returns for an open database. `check`: refuse one whose schema is not this version's."""
    import asyncio

    from service.contract.database import check_schema, create

    async def run() -> Result:
        database = create(settings.resolved_database_url(), settings.timeouts)
        try:
            if check:
                await check_schema(database)
            return await act(database)
        finally:
            await database.dispose()

    return asyncio.run(run())


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], colours: Mapping[str, str] | None = None
) -> None:
    """Write a table to stdout; None is an empty cell, and a cell whose whole text is in `colours` gets that colour."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        cells = ("" if cell is None else str(cell) for cell in row)
        table.add_row(*(Text(cell, style=(colours or {}).get(cell, "")) for cell in cells))
    Console().print(table)


def say(result: Mapping[str, Any], as_json: bool) -> None:
    """Write what a command came to: one line of JSON, or a line for each part of it."""
    print(json.dumps(result) if as_json else "\n".join(f"{key}: {value}" for key, value in result.items()))


def print_json(value: Any) -> None:
    """Write `value` to stdout; what JSON does not know becomes text."""
    print(json.dumps(value, default=str, indent=2))
