"""How a request tells vLLM what must not be said twice: one text, which goes over HTTP as well. It is no engine.

It imports no vLLM, so that a service whose engine is elsewhere can write it.
"""

import json
from collections.abc import Iterable

from service.contract.engine import Distinct

NAME = "distinct"


def as_argument(distinct: Distinct, stops: Iterable[int]) -> dict[str, str]:
    """`extra_args` of vLLM's SamplingParams, and `vllm_xargs` of its server."""
    return {NAME: json.dumps([distinct.separator_id, sorted(distinct.said), sorted(stops)])}


def from_argument(text: str) -> tuple[Distinct, list[int]]:
    """What must not be said twice, and the tokens that end a piece or the completion."""
    separator_id, said, stops = json.loads(text)
    return Distinct(separator_id=separator_id, said=frozenset(map(tuple, said))), [separator_id, *stops]
