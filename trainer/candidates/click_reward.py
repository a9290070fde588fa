"""Click probabilities for a search: from one predictor, computed beside the event loop, refused where they say nothing.

It knows nothing about policies or beams.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from ctr.predictor import Predictor, list_reward
from service.contract.errors import ArtifactError, ConfigurationError
from service.contract.registry import ANY_TASK
from service.contract.types import PromptContext

_ALIKE = 1e-5  # relative; batches of other sizes move a probability by a tenth of it
_JUDGED_AFTER = 8  # rows: fewer may be alike by chance

Found = list[NDArray[np.float64]]


class ClickReward:
    """One click predictor, asked in calls of many rows. `tally` counts both."""

    def __init__(self, predictor: Predictor, tally: Counter[str], thread: ThreadPoolExecutor) -> None:
        self._predictor, self._tally, self._thread = predictor, tally, thread
        self._tells_apart = False
        self._compared = 0

    async def of_lists(self, lists: Sequence[tuple[PromptContext, Sequence[str], bool]]) -> list[float]:
        """The reward of each (context, queries, single_choice): GQR eq. 4 for a single choice, else eq. 3.

        Raises:
            ArtifactError: The predictor gives what is no probability.
        """
        asked = [(context, queries) for context, queries, _ in lists]
        found = await self._ask(lambda: self._predictor.p_click_lists(asked), sum(len(each) for _, each in asked))
        return [list_reward(p, single_choice) for p, (_, _, single_choice) in zip(found, lists, strict=True)]

    async def of_following(self, asked: Sequence[tuple[PromptContext, Sequence[str], Sequence[str]]]) -> Found:
        """P(click) of each query that may follow: for each (context, queries above, following), (C,).

        Raises:
            ArtifactError: The predictor gives what is no probability, or the same to whatever may follow.
        """
        found = await self._ask(lambda: self._predictor.score_round(asked), sum(len(each) for _, _, each in asked))
        self._refuse_one_for_all([p for p in found if len(p) > 1])
        return found

    def refuse_other_tasks(self, tasks: Collection[str]) -> None:
        """Raise ConfigurationError where the predictor is for another task than one of `tasks`."""
        others = set(tasks) - {self._predictor.task}
        if others and self._predictor.task != ANY_TASK:
            raise ConfigurationError(
                f"The click predictor {self._predictor.version} is for {self._predictor.task!r}, and cannot score lists of "
                f"{', '.join(sorted(others))}. Give the one of that task."
            )

    async def _ask(self, ask: Callable[[], Found], rows: int) -> Found:
        if not rows:
            return ask()
        self._tally["predictor_calls"] += 1
        self._tally["predictor_rows"] += rows
        found = await asyncio.get_running_loop().run_in_executor(self._thread, ask)
        if not all(bool(np.all((np.asarray(p) >= 0.0) & (np.asarray(p) < 1.0))) for p in found):  # NaN is neither
            raise ArtifactError(
                f"The click predictor {self._predictor.version} gave a number that is no probability below 1. Train it "
                "anew."
            )
        return found

    def _refuse_one_for_all(self, found: Found) -> None:
        """Raise where the predictor never told apart what may stand next in a list: then the reward says nothing."""
        self._tells_apart = self._tells_apart or any(np.ptp(p) > _ALIKE * np.max(p) for p in found)
        self._compared += sum(len(p) for p in found)
        if not self._tells_apart and self._compared >= _JUDGED_AFTER:
            raise ArtifactError(
                f"The click predictor {self._predictor.version} gives the same probability to all of {self._compared} "
                "different queries, so the reward says nothing about lists. Usually it was trained on too few clicks: "
                "train it anew on more days, and look at its AUC."
            )
