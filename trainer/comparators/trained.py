"""What rows have in common: a policy that the workshop makes, or SFT trained by one method on one file of lists.

It is no row itself.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from service.contract.policy import Policy
from trainer.comparators import Category, Contestant
from trainer.workshop import Workshop


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """See `Comparator`. `policy`: what makes it, such as `Workshop.last_round`."""

    category: Category
    rank: int
    policy: Callable[[Workshop], Awaitable[Policy]]

    async def contestant(self, workshop: Workshop) -> Contestant:
        """As the workshop made it."""
        return Contestant(policy=await self.policy(workshop))


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """See `Comparator`. `method`: a file of `trainer/methods`. `lists`: what on, such as `Workshop.clicked_lists`."""

    category: Category
    rank: int
    method: str
    lists: Callable[[Workshop], Awaitable[Path]]

    async def contestant(self, workshop: Workshop) -> Contestant:
        """SFT, trained."""
        row = f"{self.method}_{self.category}"
        return Contestant(policy=await workshop.trained(row, self.method, await self.lists(workshop)))
