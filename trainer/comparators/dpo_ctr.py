"""DPO on the pairs of Algorithm 1's first round: one round of it (GQR B.2)."""

from trainer.comparators import Category, Contestant
from trainer.workshop import Workshop


class DpoCtr:
    """See `Comparator`."""

    category: Category = "ctr"
    rank = 4

    async def contestant(self, workshop: Workshop) -> Contestant:
        """One round."""
        return Contestant(policy=await workshop.first_round())


COMPARATOR = DpoCtr()
