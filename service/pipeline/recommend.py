"""One request to one recorded list, in reading order: gather, generate, rank, record.

It knows nothing about HTTP.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from retrieval.searcher import CoQuery
from service.contract.ids import new_id
from service.contract.types import Candidate, PromptContext, ServedBy, Slate
from service.experiments.assignment import Assigner, Assignment
from service.experiments.definitions import Experiments, Unit
from service.pipeline.choose import Chooser
from service.pipeline.co_occurrence import CoOccurrence
from service.pipeline.gather import gather
from service.pipeline.generate import Draft, Generator, NoList
from service.pipeline.popular import PopularQueries
from service.pipeline.rank import fit_texts, rank
from service.pipeline.record import Recorder
from service.pipeline.request import Recommendation, RecommendRequest, Trace

_SCORE_SHARE = 0.25  # of the deadline, at most, is for the click predictor
_RECORD_SHARE = 0.1  # of the deadline is kept for the commit,
_RECORD_MOST_S = 0.1  # but no more than this


class Recommender:
    """Turns one request into one recorded list, inside its deadline, always (RELIABILITY.md I5)."""

    def __init__(
        self,
        generator: Generator,
        chooser: Chooser,
        co_occurrence: CoOccurrence,
        popular: PopularQueries,
        recorder: Recorder,
        *,
        co_queries_in_prompt: int,
        assign: Callable[[str, Mapping[Unit, str | None]], Assignment] | None = None,
    ) -> None:
        """`assign`: the arms of a request; without it there are no experiments."""
        self._generator = generator
        self._chooser = chooser
        self._co_occurrence = co_occurrence
        self._in_prompt = co_queries_in_prompt
        self._popular = popular
        self._recorder = recorder
        self._assign = assign or Assigner(Experiments()).assign

    async def recommend(self, request: RecommendRequest) -> Recommendation:
        """The list for `request`. Cancelling it aborts the engine's work; nothing is recorded then."""
        impression_id, trace, started = new_id(), Trace(), time.monotonic()
        request = self._in_its_arms(request, impression_id)
        until = started + request.deadline_s
        context, co_queries = await gather(request, self._co_occurrence, trace, in_prompt=self._in_prompt)
        trace.timings_ms["gather"] = _ms_since(started)
        reserve = min(_RECORD_MOST_S, _RECORD_SHARE * request.deadline_s)
        drafts, reason = await self._generate(impression_id, request, context, trace, until - reserve)
        trace.timings_ms["generate"] = _ms_since(started)
        if drafts:
            slate = await self._choose(request, context, drafts, trace, until - reserve)
            if trace.ctr_version or trace.ctr_problem:
                trace.timings_ms["score"] = _ms_since(started)
        else:
            slate = self._lower_rung(request, co_queries, trace, reason)
        trace.timings_ms["list"] = _ms_since(started)
        token = self._recorder.sign(impression_id, request, slate, trace)
        recorded = await self._recorder.record(impression_id, request, context, slate, trace, until=until)
        trace.timings_ms["total"] = _ms_since(started)
        versions = {
            "policy": trace.policy_version,
            "prompt": trace.prompt_fingerprint,
            "ctr": trace.ctr_version,
            "cor": trace.cor_version,
        }
        return Recommendation(
            impression_id=impression_id,
            slate=slate,
            click_token=token,
            recorded=recorded,
            versions=versions,
            trace=trace,
        )

    def _in_its_arms(self, request: RecommendRequest, impression_id: str) -> RecommendRequest:
        """The request as the experiments want it served."""
        units: dict[Unit, str | None] = {
            "user": request.user_id,
            "session": request.session_id,
            "request": impression_id,
        }
        found = self._assign(request.task.name, units)
        wanted_ms = None if request.has_own_deadline else found.changes.get("deadline_ms")
        deadline_s = wanted_ms / 1000 if wanted_ms else request.deadline_s
        return replace(request, arm=found.arm, changes=found.changes, deadline_s=deadline_s)

    async def _generate(
        self, impression_id: str, request: RecommendRequest, context: PromptContext, trace: Trace, until: float
    ) -> tuple[list[Draft], str]:
        """The lists of the model that are fit to show; where there are none, why."""
        lists = self._chooser.lists(request.task, request.changes)
        try:
            drafts = await self._generator.generate(impression_id, request, context, trace, until=until, lists=lists)
        except NoList as nothing:
            return [], nothing.reason
        fit = [_fit(request, draft, trace) for draft in drafts]
        return [draft for draft in fit if draft.candidates], "nothing_fit_to_show"

    async def _choose(
        self, request: RecommendRequest, context: PromptContext, drafts: list[Draft], trace: Trace, until: float
    ) -> Slate:
        within_s = min(_SCORE_SHARE * request.deadline_s, until - time.monotonic())
        chosen = await self._chooser.choose(
            request.task, context, drafts, trace, within_s=within_s, changes=request.changes
        )
        trace.completion, trace.finish_reason = chosen.completion, chosen.finish_reason
        return chosen

    def _lower_rung(self, request: RecommendRequest, co_queries: Iterable[CoQuery], trace: Trace, reason: str) -> Slate:
        rungs = {
            ServedBy.COR: [Candidate(text=each.text, source=ServedBy.COR, score=each.score) for each in co_queries],
            ServedBy.POPULAR: self._popular.top(request.locale),
        }
        for served_by, candidates in rungs.items():
            # A query is no answer where the list is part of a sentence or a question.
            fitting = [] if request.task.auxiliary else candidates
            if shown := rank(fitting, n=request.n, asked=_asked(request), refused=trace.refused):
                return Slate(candidates=shown, served_by=served_by, degraded_reason=reason)
        return Slate(candidates=(), served_by=ServedBy.NONE, degraded_reason=reason)


def _fit(request: RecommendRequest, draft: Draft, trace: Trace) -> Draft:
    """What may be shown of a list: its candidates, and its own texts."""
    shown = rank(draft.candidates, n=request.n, asked=_asked(request), refused=trace.refused)
    texts = fit_texts(draft.texts, refused=trace.refused)
    lost = "incomplete_texts" if len(texts) < len(draft.texts) else None
    return replace(draft, candidates=shown, texts=texts, degraded_reason=draft.degraded_reason or lost)


def _asked(request: RecommendRequest) -> list[str]:
    return [text for text in (request.query, *request.session) if text]


def _ms_since(started: float) -> float:
    return round((time.monotonic() - started) * 1000, 3)
