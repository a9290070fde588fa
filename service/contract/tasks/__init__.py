"""One file per recommendation task: its words in the prompt, and how its response reads.

Adding a task is adding a file that defines `TASK`; nothing else changes.
"""

from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from service.contract.errors import ConfigurationError
from service.contract.prompt import UnifiedTask


@cache
def all_tasks() -> dict[str, UnifiedTask]:
    """Every task by name, found by the names of the files here."""
    modules = [import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__)]
    return {module.TASK.name: module.TASK for module in modules}


def get_task(name: str) -> UnifiedTask:
    """The task called `name`.

    Raises:
        ConfigurationError: There is no such task; the text lists those there are.
    """
    if name not in all_tasks():
        raise ConfigurationError(f"There is no such task. The tasks are {', '.join(sorted(all_tasks()))}.")
    return all_tasks()[name]
