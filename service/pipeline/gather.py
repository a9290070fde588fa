"""The side information of a request, as the prompt will see it.

Every text becomes one visible line here, so that whatever was sent can be stored, and an empty one counts as none.
It knows nothing about models.
"""

from dataclasses import replace

from retrieval.searcher import CoQuery
from service.contract.query_text import one_line
from service.contract.types import PromptContext
from service.pipeline.co_occurrence import CoOccurrence
from service.pipeline.rank import unfit
from service.pipeline.request import RecommendRequest, Trace

_SEARCH_SHARE = 0.25  # of the deadline, at most, is for looking up co-occurrence queries


async def gather(
    request: RecommendRequest, co_occurrence: CoOccurrence, trace: Trace, *, in_prompt: int
) -> tuple[PromptContext, tuple[CoQuery, ...]]:
    """The prompt context of `request` (GQR 3.1), and all co-occurrence queries that may be shown, best first.

    The first `in_prompt` of them are in the context (GQR 3.3, third point).
    """
    context = context_of(request)
    within_s = _SEARCH_SHARE * request.deadline_s
    found, trace.cor_version = await co_occurrence.search(
        request.task, context, within_s=within_s, wanted=request.changes.get("cor")
    )
    trace.cor_problem = found.problem
    visible = (replace(each, text=one_line(each.text)) for each in found.queries)
    fit = tuple(each for each in visible if not unfit(each.text))
    return replace(context, co_queries=tuple(each.text for each in fit[:in_prompt])), fit


def context_of(request: RecommendRequest) -> PromptContext:
    """What the request itself says."""
    return PromptContext(
        n=request.n,
        query=one_line(request.query or "") or None,
        session=_visible(request.session),
        history=tuple(replace(event, text=text) for event in request.history if (text := one_line(event.text))),
        answer=one_line(request.answer or "") or None,
        documents=_visible(request.documents),
    )


def _visible(texts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(line for line in map(one_line, texts) if line)
