"""One file per task: what people do when they meet its component, and what they may need then.

Adding a task is adding a file of its name with `draw(world, rng) -> Scene`; nothing else changes.
"""

from collections.abc import Callable
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from random import Random

from service.contract.errors import ConfigurationError
from trainer.audience.scene import Scene
from trainer.audience.world import World


@cache
def _drawers() -> dict[str, Callable[[World, Random], Scene]]:
    return {module.name: import_module(f"{__name__}.{module.name}").draw for module in iter_modules(__path__)}


def draw_scene(task: str, world: World, rng: Random) -> Scene:
    """A scene in which the component of `task` is shown.

    Raises:
        ConfigurationError: The audience does not know the task.
    """
    if task not in _drawers():
        raise ConfigurationError(
            f"The simulated audience knows no task {task!r}, only {', '.join(sorted(_drawers()))}. Add a file of that "
            "name to trainer/audience/scenes/."
        )
    return _drawers()[task](world, rng)
