"""One file per row of a comparison of methods (GQR Table 3), found by its file name: where its lists come from.

They know nothing about judges or figures. A row is a file here that defines `COMPARATOR`; all that rows share lies in
`trainer/workshop.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, cast

from service.contract.plugins import files_that_define, plugin
from service.contract.policy import Policy
from trainer.catalogue.example import Example
from trainer.workshop import Workshop

Category = Literal["baseline", "clk", "ctr"]
"""What a row learns from: annotated lists alone, clicks as they were logged, or a click predictor."""

_ORDER: tuple[Category, ...] = ("baseline", "clk", "ctr")


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """A policy that writes lists; `examples` stand before every prompt, and `engine` runs it where not the usual one does."""

    policy: Policy
    examples: Sequence[Example] = ()
    engine: str | None = None


class Comparator(Protocol):
    """Makes a contestant. `rank`: where its row stands in its category."""

    category: Category
    rank: int

    async def contestant(self, workshop: Workshop) -> Contestant:
        """The policy, trained where it was not yet.

        Raises:
            NotEnoughData: The log has too little of what it learns from.
            ArtifactError, ConfigurationError: As training does.
        """
        ...


def names() -> list[str]:
    """Every row there is, in the order of the paper's table."""
    return sorted(
        files_that_define("COMPARATOR", __file__),
        key=lambda name: (_ORDER.index(get_comparator(name).category), get_comparator(name).rank),
    )


def get_comparator(name: str) -> Comparator:
    """The row of that name.

    Raises:
        ConfigurationError: There is none.
    """
    return cast(Comparator, plugin(name, "COMPARATOR", __file__, __name__, one="row", several="rows"))
