"""suggest: somebody asked about a thing, read the answer or not, and has a next need about it."""

from random import Random

from service.contract.tasks import get_task
from service.contract.types import PromptContext
from trainer.audience.scene import Scene
from trainer.audience.world import World
from trainer.catalogue.asking import question, walk
from trainer.catalogue.typing_noise import as_typed

_WITH_SESSION, _WITH_ANSWER = 0.3, 0.3


def draw(world: World, rng: Random) -> Scene:
    """A question about a popular thing, at times after others and beside its answer."""
    kind, entity = world.thing(rng)
    facet, query = question(kind, entity, rng)
    session: tuple[str, ...] = ()
    if rng.random() < _WITH_SESSION:
        before = rng.choice([other for other in kind.facets if facet.id in other.next] or list(kind.facets))
        steps = walk(kind, before, entity, rng.randint(1, 3), rng)
        session = tuple(as_typed(text, entity, rng) for other, text in steps if other.id != facet.id)
    needs = world.needs_after(kind, facet, entity)
    return Scene(
        task="suggest",
        context=PromptContext(
            n=get_task("suggest").default_n,
            query=as_typed(query, entity, rng),
            session=session,
            answer=facet.answer.replace("{e}", entity).lower() if rng.random() < _WITH_ANSWER else None,
        ),
        needs=tuple(needs),
        chances=tuple(needs.values()),
    )
