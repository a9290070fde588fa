"""One file per stage of a job: its commands and its gate.

Adding a stage is adding a file that defines `STAGE`, and its name to the order of a job.
"""

from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from trainer.jobs.stage import Stage


@cache
def all_stages() -> dict[str, Stage]:
    """Every stage by name, found by the names of the files here."""
    modules = [import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__)]
    return {module.STAGE.name: module.STAGE for module in modules}
