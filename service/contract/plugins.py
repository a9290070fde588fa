"""Finds the files of a package that are plug-ins: those that define a certain name.

Only the one that is asked for is imported, so that what another of them needs may be missing.
"""

import re
from importlib import import_module
from pathlib import Path
from typing import Any

from service.contract.errors import ConfigurationError


def files_that_define(name: str, package_file: str) -> list[str]:
    """The modules beside `package_file` (a package's own `__file__`) that define `name` at their top level, in order."""
    defines = re.compile(rf"^(?:def {name}\(|{name} = )", re.MULTILINE)
    files = sorted(Path(package_file).parent.glob("[!_]*.py"))
    return [file.stem for file in files if defines.search(file.read_text(encoding="utf-8"))]


def plugin(name: str, defines: str, package_file: str, package: str, *, one: str, several: str) -> Any:
    """What the file `name` beside `package_file` calls `defines`. `package`: that package's own `__name__`.

    Raises:
        ConfigurationError: No such file defines it; `one` and `several` say what it would be, such as judge and judges.
    """
    if name not in (known := files_that_define(defines, package_file)):
        raise ConfigurationError(f"There is no {one} {name!r}. The {several} are {', '.join(known)}.")
    return getattr(import_module(f"{package}.{name}"), defines)
