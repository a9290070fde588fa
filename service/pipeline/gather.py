"""The side information of a request, as the prompt will see it.

It knows nothing about models; co-occurrence queries are empty until retrieval exists.
"""

from service.contract.query_text import one_line
from service.contract.types import PromptContext
from service.pipeline.request import RecommendRequest


def gather(request: RecommendRequest) -> PromptContext:
    """The prompt context of `request` (GQR 3.1): its query and everything known beside it."""
    return PromptContext(
        n=request.n,
        query=one_line(request.query) or None if request.query else None,
        session=request.session,
        history=request.history,
        answer=request.answer,
        documents=request.documents,
    )
