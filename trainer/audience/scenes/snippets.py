"""snippets: somebody asked for a piece of writing and wants it changed in one way."""

from random import Random

from service.contract.tasks import get_task
from service.contract.types import PromptContext
from trainer.audience.scene import Need, Scene
from trainer.audience.world import Popular, World, shared
from trainer.catalogue.typing_noise import as_typed

_WITH_ANSWER = 0.25


def draw(world: World, rng: Random) -> Scene:
    """A request for one form of writing; which refinements are popular is the form's own."""
    form = rng.choice(world.catalogue.forms)
    subject = Popular(form.subjects, str, world.constants.entities).draw(rng)
    wishes = [f"{group}/{number}" for group, texts in enumerate(form.snippets) for number in range(len(texts))]
    order = Popular(wishes, lambda wish: f"{form.id}:{wish}", world.constants.entities).in_order
    return Scene(
        task="snippets",
        context=PromptContext(
            n=get_task("snippets").default_n,
            query=as_typed(rng.choice(form.requests).replace("{s}", subject), subject, rng),
            answer=form.answer.replace("{s}", subject).lower() if rng.random() < _WITH_ANSWER else None,
        ),
        needs=tuple(Need(about="", kind=form.id, facet=wish) for wish in order),
        chances=shared(rank**-world.constants.entities for rank in range(1, len(order) + 1)),
    )
