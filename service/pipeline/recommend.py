"""One request to one recorded list, in reading order: gather, generate, rank, record.

It knows nothing about HTTP.
"""

import time
from dataclasses import replace

from service.contract.ids import new_id
from service.contract.types import PromptContext, ServedBy, Slate
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

    def __init__(self, generator: Generator, popular: PopularQueries, recorder: Recorder) -> None:
        self._generator = generator
        self._popular = popular
        self._recorder = recorder

    async def recommend(self, request: RecommendRequest) -> Recommendation:
        """The list for `request`. Cancelling it aborts the engine's work; nothing is recorded then."""
        impression_id, trace, started = new_id(), Trace(), time.monotonic()
        until = started + request.deadline_s
        context = gather(request)
        slate = await self._generate(impression_id, request, context, trace, until)
        trace.timings_ms["generate"] = _ms_since(started)
        token = self._recorder.sign(impression_id, request, slate, trace)
        recorded = await self._recorder.record(impression_id, request, context, slate, trace, until=until)
        trace.timings_ms["total"] = _ms_since(started)
        versions = {
            "policy": trace.policy_version,
            "prompt": trace.prompt_fingerprint,
            "ctr": None,
            "cor": None,
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
        self, impression_id: str, request: RecommendRequest, context: PromptContext, trace: Trace, until: float
    ) -> Slate:
        """The best rung that answers: model, popular, none."""
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
        return self._popular_or_none(request, trace, reason)

    def _popular_or_none(self, request: RecommendRequest, trace: Trace, reason: str) -> Slate:
        # A popular query is no answer where the list is part of a sentence or a question.
        popular = [] if request.task.auxiliary else self._popular.top(request.locale)
        shown = rank(popular, n=request.n, asked=_asked(request), refused=trace.refused)
        served_by = ServedBy.POPULAR if shown else ServedBy.NONE
        return Slate(candidates=shown, served_by=served_by, degraded_reason=reason)


def _asked(request: RecommendRequest) -> list[str]:
    return [text for text in (request.query, *request.session) if text]


def _ms_since(started: float) -> float:
    return round((time.monotonic() - started) * 1000, 3)
