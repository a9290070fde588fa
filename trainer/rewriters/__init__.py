"""One file per way to put annotated lists in other words, found by its file name (GQR appendix C: diversity in annotation).

They know nothing about models or training.
"""

from collections.abc import Sequence
from typing import Protocol, cast

from service.contract.plugins import files_that_define, plugin
from service.contract.settings import Settings
from trainer.catalogue.example import Example


class Rewriter(Protocol):
    """Says what annotated lists say in other words. `name`: its file."""

    name: str

    def rewrites(self, examples: Sequence[Example], count: int, seeds: Sequence[str]) -> list[list[Example]]:
        """At most `count` rewrites of each example; fewer where it found none. `seeds`: what decides them, one each.

        Raises:
            JudgeError: The model that rewrites cannot be reached at all.
        """
        ...


def get_rewriter(name: str, settings: Settings) -> Rewriter:
    """The one in the file of that name, ready to be asked.

    Raises:
        ConfigurationError: There is no such rewriter, or `settings` lack what it needs.
    """
    create = plugin(name, "create", __file__, __name__, one="rewriter", several="rewriters")
    return cast(Rewriter, create(settings))


def names() -> list[str]:
    """Every rewriter there is: the files here that define `create`."""
    return files_that_define("create", __file__)
