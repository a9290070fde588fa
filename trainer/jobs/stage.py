"""What a stage is: the commands that it runs given what is known so far, and the gate at its end.

It runs nothing. Each stage is a file in `trainer/jobs/stages/`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from service.contract.registry import ANY_TASK
from service.contract.settings import Settings
from trainer.jobs.window import Window


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One sub-process of a stage.

    Attributes:
        words: what follows `nextquery`.
        work: where it keeps JSON lines of progress.
        pictures: where its plots are, beside the directory that it says it made.
        is_fenced: whether it gets the fencing number of the run.
    """

    name: str
    words: tuple[str, ...]
    work: Path | None = None
    pictures: Path | None = None
    is_fenced: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A champion as a run met it; one that serves "*" stands for every task that has none of its own."""

    version: str
    directory: str
    revision: int
    task: str
    metrics: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether a challenger may take the place of a champion. `reasons`: why not; none where it may.

    `revision`: of the champion that it competed with, 0 where the task has none of its own.
    """

    kind: str
    task: str
    version: str
    directory: str
    revision: int
    reasons: tuple[str, ...] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.reasons

    def sentence(self) -> str:
        """Why it was kept out."""
        return f"{self.version} ({self.kind} for {self.task}) was not promoted: {'; '.join(self.reasons)}."


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSoFar:
    """All that a stage may go by.

    Attributes:
        outputs: JSON of each part, by stage and name of the part.
        verdicts: of the stages so far.
        champions: by kind and task, as they were when the run began.
        champions_now: as they are.
    """

    window: Window
    settings: Settings
    outputs: Mapping[str, Mapping[str, Mapping[str, Any]]]
    verdicts: Sequence[Verdict]
    champions: Mapping[tuple[str, str], Served]
    champions_now: Mapping[tuple[str, str], Served]

    def champion(self, kind: str, task: str) -> Served | None:
        """The champion that a challenger for `task` competes with."""
        return self.champions.get((kind, task)) or self.champions.get((kind, ANY_TASK))

    def revision(self, kind: str, task: str) -> int:
        """What compare-and-set compares with."""
        own = self.champions.get((kind, task))
        return own.revision if own else 0

    def refused(self, kind: str, task: str) -> bool:
        """Whether an earlier gate kept the challenger out."""
        return any((each.kind, each.task) == (kind, task) and not each.passed for each in self.verdicts)

    def more_words(self, stage: str) -> list[str]:
        """Words that the settings add to the commands of a stage."""
        return list(self.settings.jobs.options.get(stage, ()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What the end of a stage says. `reason`: why there was nothing to do."""

    verdicts: tuple[Verdict, ...] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage. `judge` gets the outputs of its parts by name.

    `judge` raises JobError where going on makes no sense at all.
    """

    name: str
    parts: Callable[[RunSoFar], Sequence[Part]]
    judge: Callable[[RunSoFar, Mapping[str, Mapping[str, Any]]], Judgement]
