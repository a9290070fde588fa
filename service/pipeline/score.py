"""Click probabilities of lists: from the predictor in service, computed beside the event loop, inside a time.

It knows nothing about what they are for, and of `ctr` only the door `ctr.predictor`.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from service.contract.errors import ArtifactError, PredictionError
from service.contract.hardware import compute_alone
from service.contract.registry import ANY_TASK
from service.contract.types import PromptContext
from service.pipeline.champion import KeptChampion, Newest

if TYPE_CHECKING:  # it brings numpy, then torch: a service that scores nothing needs neither
    from ctr.predictor import Predictor

_LOG = logging.getLogger(__name__)

_MOST_ROWS = 64  # of a batch: a core scores so many in about 30 ms, and those behind can give up meanwhile
_WARM_UP = PromptContext(n=3, query="brown rice", session=("rice",))

Asked = tuple[PromptContext, Sequence[str]]  # a list of queries, and what it was written for
Probabilities = tuple[float, ...]  # p_click of each query of a list, given those above it
_Question = tuple["asyncio.Future[list[Probabilities]]", Sequence[Asked]]


class Scorer:
    """One click predictor with a thread of its own. What waits when it is free is scored as one batch, first come first."""

    def __init__(self, predictor: "Predictor") -> None:
        self.version = predictor.version
        self._predictor = predictor
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ctr", initializer=compute_alone)
        self._waiting: list[_Question] = []
        self._working: asyncio.Task[None] | None = None

    async def p_click(self, lists: Sequence[Asked]) -> list[Probabilities]:
        """P(click) of every query of every list. Whoever stops waiting takes the question back.

        Raises:
            PredictionError: The predictor failed, or gave what is no probability.
        """
        future: asyncio.Future[list[Probabilities]] = asyncio.get_running_loop().create_future()
        question = (future, lists)
        self._waiting.append(question)
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work())
        try:
            return await future
        finally:
            if question in self._waiting:  # a predictor that hangs must not collect them
                self._waiting.remove(question)

    async def _work(self) -> None:
        while self._waiting:
            batch = self._next_batch()
            lists = [each for _, asked in batch for each in asked]
            try:
                scored = await asyncio.get_running_loop().run_in_executor(self._thread, self._score, lists)
            except Exception as error:  # torch's own; its text may hold a query
                _LOG.error("The click predictor %s failed with %s.", self.version, type(error).__name__)
                for future, _ in batch:
                    if not future.done():
                        future.set_exception(PredictionError("The click predictor failed; the log says with what."))
                continue
            answers = iter(scored)
            for future, asked in batch:
                mine = [next(answers) for _ in asked]
                if not future.done():
                    future.set_result(mine)

    def _next_batch(self) -> "list[_Question]":
        rows, count = 0, 0
        while count < len(self._waiting) and (rows < _MOST_ROWS or not count):
            rows += sum(len(queries) for _, queries in self._waiting[count][1])
            count += 1
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        return batch

    def _score(self, lists: list[Asked]) -> list[Probabilities]:
        scored = [tuple(map(float, p)) for p in self._predictor.p_click_lists(lists)]
        if [len(p) for p in scored] != [len(queries) for _, queries in lists]:
            raise PredictionError("The click predictor gave another number of probabilities than it was asked for.")
        if not all(math.isfinite(one) and 0 <= one <= 1 for p in scored for one in p):
            raise PredictionError("The click predictor gave a number that is no probability.")
        return scored

    async def close(self) -> None:
        """Let go of the predictor; what it is computing is given up."""
        if self._working is not None:
            self._working.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)


class ClickPrediction:
    """The champions of click prediction, by the task that they are champion of; "*" stands for all without their own.

    `newest`: for each of those tasks, the version of its champion and how to open it. `is_wanted`: whether anybody asks;
    until then nothing is loaded.
    """

    def __init__(
        self,
        newest: Mapping[str, Newest[Scorer]],
        *,
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> None:
        self._is_wanted = is_wanted
        self._champions = {
            task: KeptChampion(f"The click predictor for {task}", looked_for) for task, looked_for in newest.items()
        }

    def of(self, task: str) -> Scorer | None:
        """The predictor that scores lists of `task`, None where there is none."""
        for name in (task, ANY_TASK):
            if name in self._champions and (scorer := self._champions[name].now):
                return scorer
        return None

    @property
    def versions(self) -> dict[str, str]:
        """The predictor in service for each task that has one; "*" is all others."""
        return {task: kept.version for task, kept in self._champions.items() if kept.version}

    @property
    def problem(self) -> str | None:
        """Why a newer predictor is not taken up."""
        return " ".join(dict.fromkeys(kept.problem for kept in self._champions.values() if kept.problem)) or None

    async def start(self) -> None:
        """Load what every predictor needs, which stalls a process for most of a second: later, requests would wait."""
        if self._champions and self._is_wanted():
            await asyncio.to_thread(_load_libraries)

    async def refresh(self) -> None:
        """Take up every champion that is not yet in service, where they are wanted."""
        if not self._is_wanted():
            return
        for kept in self._champions.values():
            await kept.refresh()

    async def close(self) -> None:
        """Let go of all predictors."""
        for kept in self._champions.values():
            await kept.close()


async def open_scorer(directory: Path, task: str, *, timeout_s: float) -> Scorer:
    """The predictor that `nextquery ctr train` published in `directory`, to score lists of `task` ("*" is all).

    It has scored a list when it is returned: the first one takes longer, and shows whether it can.

    Raises:
        ArtifactError: It is no click predictor, is damaged, or is for another task.
        PredictionError: It cannot score, or was not ready after `timeout_s`.
    """
    try:
        async with asyncio.timeout(timeout_s):
            predictor = await asyncio.to_thread(_open, directory)
            _refuse_other_task(predictor, task, directory)
            return await _warm(Scorer(predictor))
    except TimeoutError:
        raise PredictionError(
            f"The click predictor {directory} was not ready after {timeout_s:g} s. Usually the machine is busy; else "
            "raise NEXTQUERY_TIMEOUTS__CTR_OPEN_S, or promote a smaller one."
        ) from None


def _open(directory: Path) -> "Predictor":
    from ctr.predictor import open_predictor

    return open_predictor(directory)


def _refuse_other_task(predictor: "Predictor", task: str, directory: Path) -> None:
    if predictor.task not in (task, ANY_TASK):
        raise ArtifactError(
            f"{directory} is a click predictor for {predictor.task!r}, and cannot score for {task!r}. Promote it for its "
            "own task."
        )


async def _warm(scorer: Scorer) -> Scorer:
    try:
        await scorer.p_click([(_WARM_UP, ["brown rice calories", "wild rice"])])
    except BaseException:
        await scorer.close()
        raise
    return scorer


def _load_libraries() -> None:
    import torch  # noqa: F401
    from transformers import AutoModel, AutoTokenizer, PreTrainedModel  # noqa: F401

    import ctr.predictor  # noqa: F401
