"""A model that was never trained on lists, shown five annotated ones before every prompt (GQR B.2).

It knows nothing about clicks. Any model that an engine runs will do; of the starter it is the base.
"""

from itertools import islice

from service.contract.tasks import get_task
from trainer.catalogue.catalogue import load_catalogue
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
    """Five annotated lists of the task's usual length, about five kinds of things, the shortest of what was composed."""
    usual, kinds = get_task(task).default_n, dict[str, Example]()
    composed = islice(compose(load_catalogue(), _SEED, task=task), _CHOSEN_FROM)
    for example in sorted((each for each in composed if each.context.n == usual), key=_length):
        kinds.setdefault(example.kind, example)
    return list(kinds.values())[:EXAMPLES]


def _length(example: Example) -> int:
    context = example.context
    read = (context.query or "", context.answer or "", *context.session, *context.co_queries, *context.documents)
    return sum(map(len, (*read, *example.queries))) + sum(len(event.text) for event in context.history)


COMPARATOR = FewShot()
