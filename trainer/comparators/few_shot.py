"""A model that was never trained on lists, shown five annotated ones before every prompt (GQR B.2).

It knows nothing about clicks. Any model that an engine runs will do; of the starter it is the base.
"""

from itertools import islice

from service.contract.tasks import get_task
from trainer.catalogue.catalogue import Catalogue, load_catalogue
from trainer.catalogue.compose import compose
from trainer.catalogue.example import Example
from trainer.comparators import Category, Contestant
from trainer.workshop import Workshop

EXAMPLES = 5
_CHOSEN_FROM = 400
_SEED = 11


class FewShot:
    """See `Comparator`."""

    category: Category = "baseline"
    rank = 1

    async def contestant(self, workshop: Workshop) -> Contestant:
        """The model with its examples; nothing is trained."""
        found = workshop.materials
        return Contestant(policy=found.few_shot, examples=selected(found.task), engine=found.few_shot_engine)


def selected(task: str) -> list[Example]:
    """Five annotated lists of the usual length, about five kinds of things with a name of their own: the shortest there are."""
    usual, kinds, catalogue = get_task(task).default_n, dict[str, Example](), load_catalogue()
    composed = islice(compose(catalogue, _SEED, task=task), _CHOSEN_FROM)
    fitting = [each for each in composed if each.context.n == usual and _is_named(each, catalogue)]
    for example in sorted(fitting, key=_length):
        kinds.setdefault(example.kind, example)
    return list(kinds.values())[:EXAMPLES]


def _is_named(example: Example, catalogue: Catalogue) -> bool:
    """Whether what it is about is a real thing, spelt as it should be in what was asked; writing may be about anything."""
    asked = [text for text in (example.context.query, *example.context.session[-1:]) if text]
    kind = catalogue.kind.get(example.kind)
    is_real = kind is None or (not kind.generic and example.entity in kind.names)
    return is_real and all(example.entity in text for text in asked)


def _length(example: Example) -> int:
    context = example.context
    read = (context.query or "", context.answer or "", *context.session, *context.co_queries, *context.documents)
    return sum(map(len, (*read, *example.queries))) + sum(len(event.text) for event in context.history)


COMPARATOR = FewShot()
