"""One file per format of a search log: how its rows read.

Adding a format is adding a file that defines `FORMAT`; nothing else changes.
"""

from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from service.contract.errors import ConfigurationError
from service.imports.rows import LogFormat


@cache
def all_formats() -> dict[str, LogFormat]:
    """Every format by name, found by the names of the files here."""
    modules = [import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__)]
    return {module.FORMAT.name: module.FORMAT for module in modules}


def get_format(name: str) -> LogFormat:
    """The format called `name`.

    Raises:
        ConfigurationError: There is no such format; the text lists those there are.
    """
    if name not in all_formats():
        raise ConfigurationError(f"There is no such format. The formats are {', '.join(sorted(all_formats()))}.")
    return all_formats()[name]
