"""clarify: somebody typed a word with several meanings, or a thing without a wish."""

from random import Random

from service.contract.tasks import get_task
from service.contract.types import PromptContext
from trainer.audience.scene import Need, Scene
from trainer.audience.world import World, shared
from trainer.catalogue.asking import bare
from trainer.catalogue.typing_noise import as_typed

_WORDS = 0.4
_SHOWN_FACETS = 8  # the first facets of a kind are what people mean by its bare name


def draw(world: World, rng: Random) -> Scene:
    """An ambiguous word whose first sense is the likeliest, or a bare name whose first facets are."""
    if rng.random() < _WORDS:
        word = rng.choice(world.catalogue.words)
        query = word.word
        needs = [
            Need(about=word.word, text=f"{sense} {about}")
            for sense, about in zip(word.senses, word.abouts, strict=True)
        ]
    else:
        kind, entity = world.thing(rng)
        query = as_typed(bare(kind, entity, rng), entity, rng)
        needs = [Need(about=entity, kind=kind.name, facet=facet.id) for facet in kind.facets[:_SHOWN_FACETS]]
    return Scene(
        task="clarify",
        context=PromptContext(n=get_task("clarify").default_n, query=query),
        needs=tuple(needs),
        chances=shared(1.0 / place for place in range(1, len(needs) + 1)),
    )
