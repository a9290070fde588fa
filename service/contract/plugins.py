"""Finds the files of a package that are plug-ins: those that define a certain name.

It imports none of them, so that what one of them needs may be missing until it is asked for.
"""

import re
from pathlib import Path


def files_that_define(name: str, package_file: str) -> list[str]:
    """The modules beside `package_file` (a package's own `__file__`) that define `name` at their top level, in order."""
    defines = re.compile(rf"^(?:def {name}\(|{name} = )", re.MULTILINE)
    files = sorted(Path(package_file).parent.glob("[!_]*.py"))
    return [file.stem for file in files if defines.search(file.read_text(encoding="utf-8"))]
