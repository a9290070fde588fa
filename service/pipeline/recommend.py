"""One request to one recorded list, in reading order: gather, generate, rank, record.

It knows nothing about HTTP.
"""

import time
from collections.abc import Iterable
from dataclasses import replace

from retrieval.searcher import CoQuery
from service.contract.ids import new_id
from service.contract.types import Candidate, PromptContext, ServedBy, Slate
from service.pipeline.co_occurrence import CoOccurrence
from service.pipeline.gather import gather
from service.pipeline.generate import Generator, NoList
from service.pipeline.popular import PopularQueries
from service.pipeline.rank import fit_texts, rank
from service.pipeline.record import Recorder
from service.pipeline.request import Recommendation, RecommendRequest, Trace

_RECORD_SHARE = 0.1  # of the deadline is kept for the commit,
_RECORD_MOST_S = 0.1  # but no more than this


class Recommender:
    """Turns one request into one recorded list, inside its deadline, always (RELIABILITY.md I5)."""

    def __init__(
        self,
        generator: Generator,
        co_occurrence: CoOccurrence,
        popular: PopularQueries,
        recorder: Recorder,
        *,
        co_queries_in_prompt: int,
    ) -> None:
        self._generator = generator
        self._co_occurrence = co_occurrence
        self._in_prompt = co_queries_in_prompt
        self._popular = popular
        self._recorder = recorder

    async def recommend(self, request: RecommendRequest) -> Recommendation:
        """The list for `request`. Cancelling it aborts the engine's work; nothing is recorded then."""
        impression_id, trace, started = new_id(), Trace(), time.monotonic()
        until = started + request.deadline_s
        context, co_queries = await gather(request, self._co_occurrence, trace, in_prompt=self._in_prompt)
        trace.timings_ms["gather"] = _ms_since(started)
        slate = await self._generate(impression_id, request, context, co_queries, trace, until)
        trace.timings_ms["generate"] = _ms_since(started)
        token = self._recorder.sign(impression_id, request, slate, trace)
        recorded = await self._recorder.record(impression_id, request, context, slate, trace, until=until)
        trace.timings_ms["total"] = _ms_since(started)
        versions = {
            "policy": trace.policy_version,
            "prompt": trace.prompt_fingerprint,
            "ctr": None,
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

    async def _generate(
        self,
        impression_id: str,
        request: RecommendRequest,
        context: PromptContext,
        co_queries: Iterable[CoQuery],
        trace: Trace,
        until: float,
    ) -> Slate:
        """The best rung that answers: model, co-occurrence, popular, none."""
        reserve = min(_RECORD_MOST_S, _RECORD_SHARE * request.deadline_s)
        try:
            slate = await self._generator.generate(impression_id, request, context, trace, until=until - reserve)
            shown = rank(slate.candidates, n=request.n, asked=_asked(request), refused=trace.refused)
            if shown:
                texts = fit_texts(slate.texts, refused=trace.refused)
                lost = "incomplete_texts" if len(texts) < len(slate.texts) else None
                return replace(slate, candidates=shown, texts=texts, degraded_reason=slate.degraded_reason or lost)
            reason = "nothing_fit_to_show"
        except NoList as nothing:
            reason = nothing.reason
        return self._lower_rung(request, co_queries, trace, reason)

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


def _asked(request: RecommendRequest) -> list[str]:
    return [text for text in (request.query, *request.session) if text]


def _ms_since(started: float) -> float:
    return round((time.monotonic() - started) * 1000, 3)
