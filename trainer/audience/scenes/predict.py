"""predict: somebody with a long history about one to three things; the last one matters most."""

from random import Random

from service.contract.tasks import get_task
from service.contract.types import EventSource, HistoryEvent, PromptContext
from trainer.audience.scene import Need, Scene
from trainer.audience.world import World
from trainer.catalogue.asking import walk
from trainer.catalogue.typing_noise import as_typed

_OTHERS = 0.4  # of the needs are about an earlier thing, where there is one


def draw(world: World, rng: Random) -> Scene:
    """A history, oldest first, thing after thing."""
    chances: dict[Need, float] = {}
    history: list[HistoryEvent] = []
    things = rng.randint(1, 3)
    for number in range(1, things + 1):
        kind, entity = world.thing(rng)
        steps = walk(kind, rng.choice(kind.facets), entity, rng.randint(2, 4), rng)
        history += [HistoryEvent(source=EventSource.SEARCH, text=as_typed(text, entity, rng)) for _, text in steps]
        share = 1.0 if things == 1 else (1 - _OTHERS if number == things else _OTHERS / (things - 1))
        for need, chance in world.needs_after(kind, steps[-1][0], entity).items():
            chances[need] = chances.get(need, 0.0) + share * chance
    return Scene(
        task="predict",
        context=PromptContext(n=get_task("predict").default_n, history=tuple(history)),
        needs=tuple(chances),
        chances=tuple(chances.values()),
    )
