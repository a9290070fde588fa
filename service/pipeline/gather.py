"""The side information of a request, as the prompt will see it.

Every text becomes one visible line here, so that whatever was sent can be stored, and an empty one counts as none.
It knows nothing about models; co-occurrence queries are empty until retrieval exists.
"""

from dataclasses import replace

from service.contract.query_text import one_line
from service.contract.types import PromptContext
from service.pipeline.request import RecommendRequest


def gather(request: RecommendRequest) -> PromptContext:
    """The prompt context of `request` (GQR 3.1): its query and everything known beside it."""
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
