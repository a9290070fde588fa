"""One file per kind of log that has people and times, found by its file name: how its events read, in the SQL of DuckDB.

They know nothing about prompts. A kind is a file here that defines `EVENTS`: a statement that selects `person`, `moment`
(a TIMESTAMP, UTC), `source` (search, click, purchase or visit) and `text` from the file or folder in the parameter $log.
"""

from importlib import import_module

from service.contract.errors import ConfigurationError
from service.contract.plugins import files_that_define


def names() -> list[str]:
    """Every kind of log there is: the files here that define `EVENTS`."""
    return files_that_define("EVENTS", __file__)


def events_of(name: str) -> str:
    """The statement that reads logs of that kind.

    Raises:
        ConfigurationError: There is no such kind.
    """
    if name not in names():
        raise ConfigurationError(f"There is no kind of log {name!r}. The kinds are {', '.join(names())}.")
    return str(import_module(f"{__name__}.{name}").EVENTS)
