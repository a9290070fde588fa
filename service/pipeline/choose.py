"""Which list of the model is shown, and in which order: as it came, the best of several, or reordered.

It knows nothing about how lists are made or scored, or what may be shown.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from types import MappingProxyType
from typing import Any, Literal, TypeVar

from service.contract.errors import PredictionError
from service.contract.prompt import UnifiedTask
from service.contract.types import Candidate, PromptContext, Slate
from service.pipeline.request import Trace
from service.pipeline.score import ClickPrediction, Probabilities, Scorer

Use = Literal["off", "best_of", "reorder"]
_NONE: Mapping[str, Any] = MappingProxyType({})
SlateT = TypeVar("SlateT", bound=Slate)


@dataclass(frozen=True, slots=True)
class Choice:
    """How a list is chosen. `best_of`: lists to choose from. `explore_share`: lists whose order is drawn under "reorder"."""

    use: Use = "off"
    best_of: int = 4
    explore_share: float = 0.0

    def changed(self, changes: Mapping[str, Any]) -> "Choice":
        """As an arm of an experiment has it."""
        return Choice(
            changes.get("rerank", self.use),
            changes.get("best_of", self.best_of),
            changes.get("explore_share", self.explore_share),
        )


class Chooser:
    """Chooses by the click predictor; where that is late, fails or is not there, as the model wrote it.

    `choice`: how, where the arm of a request does not say otherwise.
    """

    def __init__(
        self,
        prediction: ClickPrediction,
        choice: Choice = Choice(),
        *,
        timeout_s: float = 0.1,
        random: Random | None = None,
    ) -> None:
        self._prediction, self._choice = prediction, choice
        self._timeout_s = timeout_s
        self._random = random or Random()  # an order is no secret

    def lists(self, task: UnifiedTask, changes: Mapping[str, Any] = _NONE) -> int:
        """How many lists the model is to write. `changes`: of the arm."""
        choice = self._choice.changed(changes)
        return choice.best_of if choice.use == "best_of" and self._prediction.of(task.name) else 1

    async def choose(
        self,
        task: UnifiedTask,
        context: PromptContext,
        slates: Sequence[SlateT],
        trace: Trace,
        *,
        within_s: float,
        changes: Mapping[str, Any] = _NONE,
    ) -> SlateT:
        """One of `slates` (at least one, each fit to show), at the latest after `within_s`. `changes`: of the arm."""
        choice = self._choice.changed(changes)
        if choice.use == "off":
            return slates[0]
        until = asyncio.get_running_loop().time() + max(0.0, min(self._timeout_s, within_s))
        if choice.use == "best_of":
            return await self._best(task, context, slates, trace, until)
        return await self._reordered(task, context, slates[0], trace, choice.explore_share, until)

    async def _best(
        self, task: UnifiedTask, context: PromptContext, slates: Sequence[SlateT], trace: Trace, until: float
    ) -> SlateT:
        """The list with the highest reward (GQR eq. 3, eq. 4 for a single choice); the first one if none has any."""
        whole = [slate for slate in slates if slate.degraded_reason is None] or slates
        scorer = self._scorer(task, trace)
        if scorer is None:
            return whole[0]
        try:
            async with asyncio.timeout_at(until):
                scored = await scorer.p_click([(context, _texts(slate.candidates)) for slate in whole])
        except (TimeoutError, PredictionError) as error:
            trace.ctr_problem = _problem(error)
            return whole[0]
        from ctr.predictor import list_reward  # there is a predictor, so it is loaded

        trace.ctr_version = scorer.version
        rewards = [list_reward(p, single_choice=task.single_choice) for p in scored]
        best = rewards.index(max(rewards))
        return replace(whole[best], candidates=_scored(whole[best].candidates, scored[best]))

    async def _reordered(
        self,
        task: UnifiedTask,
        context: PromptContext,
        slate: SlateT,
        trace: Trace,
        explore_share: float,
        until: float,
    ) -> SlateT:
        """The list in its best order, or in one drawn at random, each candidate with its propensity.

        Whether an order is drawn depends on nothing else, so that propensities are exact even where scoring fails.
        """
        scorer = self._scorer(task, trace)
        if task.fixed_order:
            return await self._as_it_is(context, slate, scorer, trace, until)
        best, p = slate.candidates, None
        if scorer is not None:
            try:
                async with asyncio.timeout_at(until):
                    best, p = await _best_order(scorer, context, slate.candidates)
                trace.ctr_version = scorer.version
            except (TimeoutError, PredictionError) as error:
                trace.ctr_problem = _problem(error)
        explored = self._random.random() < explore_share
        order = tuple(self._random.sample(best, len(best))) if explored else best
        known = replace(slate, candidates=_with_propensity(order, best, explore_share))
        if explored and p is not None:
            return await self._as_it_is(context, known, scorer, trace, until)
        return known if p is None else replace(known, candidates=_scored(known.candidates, p))

    async def _as_it_is(
        self, context: PromptContext, slate: SlateT, scorer: Scorer | None, trace: Trace, until: float
    ) -> SlateT:
        """The list in the order that it has, scored where that is possible in time."""
        if scorer is None:
            return slate
        try:
            async with asyncio.timeout_at(until):
                (p,) = await scorer.p_click([(context, _texts(slate.candidates))])
        except (TimeoutError, PredictionError) as error:
            trace.ctr_problem = _problem(error)
            return slate
        trace.ctr_version = scorer.version
        return replace(slate, candidates=_scored(slate.candidates, p))

    def _scorer(self, task: UnifiedTask, trace: Trace) -> Scorer | None:
        scorer = self._prediction.of(task.name)
        if scorer is None:
            trace.ctr_problem = "no_predictor"
        return scorer


async def _best_order(
    scorer: Scorer, context: PromptContext, candidates: Sequence[Candidate]
) -> tuple[tuple[Candidate, ...], Probabilities]:
    """Greedy search: at each position the candidate most likely to be clicked there, given those above it.

    Of equals the one that the model wrote first. Rounds of several requests meet in one batch of the scorer.
    """
    shown: list[Candidate] = []
    p_shown: list[float] = []
    left = list(candidates)
    while left:
        above = _texts(shown)
        scored = await scorer.p_click([(context, [*above, candidate.text]) for candidate in left])
        p = [of_list[-1] for of_list in scored]
        best = p.index(max(p))
        shown.append(left.pop(best))
        p_shown.append(p[best])
    return tuple(shown), tuple(p_shown)


def _with_propensity(
    order: Sequence[Candidate], best: Sequence[Candidate], explore_share: float
) -> tuple[Candidate, ...]:
    """P(candidate i at position k) = (1 - e) [the best order has i at k] + e / n, since a drawn order is uniform."""
    return tuple(
        replace(shown, propensity=(1 - explore_share) * (shown is expected) + explore_share / len(order))
        for shown, expected in zip(order, best, strict=True)
    )


def _scored(candidates: Sequence[Candidate], p: Probabilities) -> tuple[Candidate, ...]:
    return tuple(replace(candidate, score=one) for candidate, one in zip(candidates, p, strict=True))


def _texts(candidates: Sequence[Candidate]) -> list[str]:
    return [candidate.text for candidate in candidates]


def _problem(error: Exception) -> str:
    return "late" if isinstance(error, TimeoutError) else "failed"
