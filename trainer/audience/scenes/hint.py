"""hint: somebody comes back to the search box after one to four queries about a thing."""

from random import Random

from service.contract.tasks import get_task
from service.contract.types import PromptContext
from trainer.audience.scene import Scene
from trainer.audience.world import World
from trainer.catalogue.asking import walk
from trainer.catalogue.typing_noise import as_typed


def draw(world: World, rng: Random) -> Scene:
    """A session about a popular thing."""
    kind, entity = world.thing(rng)
    steps = walk(kind, rng.choice(kind.facets), entity, rng.randint(1, 4), rng)
    needs = world.needs_after(kind, steps[-1][0], entity)
    session = tuple(as_typed(text, entity, rng) for _, text in steps)
    return Scene(
        task="hint",
        context=PromptContext(n=get_task("hint").default_n, session=session),
        needs=tuple(needs),
        chances=tuple(needs.values()),
    )
