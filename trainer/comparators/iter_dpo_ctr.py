"""Iterative DPO: Algorithm 1 until it gains no more (GQR 3.2.2)."""

from trainer.comparators import Category, Contestant
from trainer.workshop import Workshop


class IterDpoCtr:
    """See `Comparator`."""

    category: Category = "ctr"
    rank = 5

    async def contestant(self, workshop: Workshop) -> Contestant:
        """The last round that was a gain."""
        return Contestant(policy=await workshop.last_round())


COMPARATOR = IterDpoCtr()
