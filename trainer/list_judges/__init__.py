"""One file per judge of the quality of lists, found by its file name: how related and how exclusive each query is (GQR B.1).

They know nothing about clicks, rewards or policies.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from statistics import fmean
from typing import Literal, Protocol, cast

from service.contract.plugins import files_that_define, plugin
from service.contract.settings import Settings
from service.contract.types import PromptContext


class Relatedness(IntEnum):
    """How near a query is to what the person asked: GQR B.1's three levels."""

    LOW = 0
    MODERATE = 1
    HIGH = 2


Repeat = Literal["query", "answer", "list"]
"""What a query says again: GQR B.1's three kinds of exclusivity, each broken."""


@dataclass(frozen=True, slots=True)
class Rating:
    """Of one list, query by query. `related` is empty where the judge cannot tell; `repeats` is empty for a new query."""

    related: tuple[Relatedness, ...]
    repeats: tuple[frozenset[Repeat], ...]

    @property
    def relatedness(self) -> float | None:
        """Mean level, 0 to 2; None where the judge cannot tell, or there is no query."""
        return fmean(self.related) if self.related else None

    @property
    def exclusivity(self) -> float | None:
        """Share of the queries that say nothing again; None without a query."""
        return fmean(not repeated for repeated in self.repeats) if self.repeats else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two lists that two policies wrote for one person. `task`: whose they are."""

    task: str
    context: PromptContext
    first: tuple[str, ...]
    second: tuple[str, ...]

    def swapped(self) -> "Pair":
        """The same with the order turned."""
        return Pair(task=self.task, context=self.context, first=self.second, second=self.first)


class ListJudge(Protocol):
    """Rates pairs of lists; None wherever it did not come to a verdict.

    `name`: its file. `spent`: what asking cost so far, by name; nothing for a judge that costs nothing.

    Raises:
        JudgeError: It cannot be reached at all.
    """

    name: str

    @property
    def spent(self) -> Mapping[str, int]: ...

    def ratings(self, pairs: Sequence[Pair]) -> list[tuple[Rating, Rating] | None]:
        """Both lists of every pair."""
        ...


def get_list_judge(name: str, settings: Settings) -> ListJudge:
    """The judge in the file of that name, ready to be asked.

    Raises:
        ConfigurationError: There is no such judge, or `settings` lack what it needs.
    """
    create = plugin(name, "create", __file__, __name__, one="judge of lists", several="judges of lists")
    return cast(ListJudge, create(settings))


def names() -> list[str]:
    """Every judge of lists there is: the files here that define `create`."""
    return files_that_define("create", __file__)
