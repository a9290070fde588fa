"""One file per judge of lists, found by its file name.

They know nothing about rewards, pairs or training.
"""

from collections.abc import Sequence
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from service.contract.plugins import files_that_define, plugin
from service.contract.settings import Settings
from service.contract.types import PromptContext

Question = tuple[PromptContext, Sequence[Sequence[str]]]
"""What was asked, and lists that may answer it."""


class OverlapJudge(Protocol):
    """Says of a list whether it says one thing twice: GQR's overlap filter (3.2.2; Algorithm 1, line 25).

    A list overlaps when one of its queries says the same as another of it, as what was asked, or as the answer (the
    three exclusivities of GQR B.1). `name`: its file. A judge derives from this class for `overlaps`.
    """

    name: str

    def overlaps_many(self, questions: Sequence[Question]) -> list[list[bool]]:
        """For every question, whether each of its lists overlaps, all in one batch. A list of nothing does not.

        Raises:
            JudgeError: The judge did not answer, or nobody can read what it said.
            ConfigurationError: It cannot be asked at all.
        """
        ...

    def overlaps(self, context: PromptContext, lists: Sequence[Sequence[str]]) -> list[bool]:
        """The same for one question."""
        return self.overlaps_many([(context, lists)])[0]


class Similar(Protocol):
    """Gives texts unit vectors whose product is similarity."""

    def vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One unit vector a text, (N, D)."""
        ...


def get_judge(name: str, settings: Settings) -> OverlapJudge:
    """The judge in the file of that name, ready to be asked.

    Raises:
        ConfigurationError: There is no such judge, or `settings` lack what it needs.
        ArtifactError: Its model cannot be loaded.
    """
    create = plugin(name, "create", __file__, __name__, one="judge", several="judges")
    return cast(OverlapJudge, create(settings))


def names() -> list[str]:
    """Every judge there is: the files here that define `create`."""
    return files_that_define("create", __file__)
