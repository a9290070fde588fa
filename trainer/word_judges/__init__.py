"""One file per judge of words, found by its file name: it says of each word, and of the whole response, whether it is relevant.

They know nothing about tokens, models or rewards (TPPO 3.2, phase I).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, cast

from service.contract.plugins import files_that_define, plugin
from service.contract.settings import Settings
from service.contract.types import PromptContext
from trainer.audience.scene import Scene


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a judge is shown.

    `words`: of each query, in order. `scene`: what a simulated person needs, which no real log says; for judges that know it.
    """

    context: PromptContext
    queries: tuple[str, ...]
    words: tuple[tuple[str, ...], ...]
    scene: Scene | None = None


@dataclass(frozen=True, slots=True)
class Judgement:
    """Whether each word is relevant, query by query, and whether the response is as a whole."""

    words: tuple[tuple[bool, ...], ...]
    whole: bool


Vote = Literal["first", "second", "neither"]
"""Which of two responses is better."""


class WordJudge(Protocol):
    """Judges responses; None wherever it did not come to a verdict, which is never taken for one.

    `name`: its file. `spent`: what asking cost so far, by name; nothing for a judge that costs nothing.

    Raises:
        JudgeError: It cannot be reached at all.
        ConfigurationError: It cannot judge what it is asked about.
    """

    name: str

    @property
    def spent(self) -> Mapping[str, int]: ...

    def judge(self, asked: Sequence[Asked]) -> list[Judgement | None]:
        """Each word first, then the response as a whole: the paper's token-level template."""
        ...

    def whole(self, asked: Sequence[Asked]) -> list[bool | None]:
        """Whether each response is relevant, asked for directly: the paper's sentence-level template."""
        ...

    def votes(self, pairs: Sequence[tuple[Asked, Asked]]) -> list[Vote | None]:
        """Which of two responses to one person is better."""
        ...


class GradingJudge(ABC):
    """What judges have in common that give a response a grade, and no price.

    A response is relevant from the grade `enough` on, and better than another from a lead of `lead` on.
    """

    spent: Mapping[str, int] = {}

    def __init__(self, *, enough: float, lead: float) -> None:
        self._enough, self._lead = enough, lead

    @abstractmethod
    def grades(self, asked: Sequence[Asked]) -> list[float]:
        """How relevant each response is."""

    def whole(self, asked: Sequence[Asked]) -> list[bool | None]:
        """See `WordJudge`."""
        return [grade >= self._enough for grade in self.grades(asked)]

    def votes(self, pairs: Sequence[tuple[Asked, Asked]]) -> list[Vote | None]:
        """See `WordJudge`."""
        grades = self.grades([each for pair in pairs for each in pair])
        return [self._vote(first - second) for first, second in zip(grades[::2], grades[1::2], strict=True)]

    def _vote(self, lead: float) -> Vote:
        if abs(lead) < self._lead:
            return "neither"
        return "first" if lead > 0 else "second"


def without_each(words: Sequence[str]) -> list[str]:
    """A query without one of its words, for each of them."""
    return [" ".join([*words[:k], *words[k + 1 :]]) for k in range(len(words))]


def mostly(relevant: Sequence[bool]) -> bool:
    """Whether a response is relevant as a whole: more than half of its queries are."""
    return sum(relevant) * 2 > len(relevant)


def get_word_judge(name: str, settings: Settings) -> WordJudge:
    """The judge in the file of that name, ready to be asked.

    Raises:
        ConfigurationError: There is no such judge, or `settings` lack what it needs.
    """
    create = plugin(name, "create", __file__, __name__, one="judge of words", several="judges of words")
    return cast(WordJudge, create(settings))


def names() -> list[str]:
    """Every judge of words there is: the files here that define `create`."""
    return files_that_define("create", __file__)
