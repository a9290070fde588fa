"""The policy that was fine-tuned on annotated lists, as it is: what every other row is compared with."""

from trainer.comparators import Category, Contestant
from trainer.workshop import Workshop


class Sft:
    """See `Comparator`."""

    category: Category = "baseline"
    rank = 2

    async def contestant(self, workshop: Workshop) -> Contestant:
        """It is there already."""
        return Contestant(policy=workshop.materials.sft)


COMPARATOR = Sft()
