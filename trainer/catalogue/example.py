"""An example: what a person did, and the list they would most like to see.

It knows nothing about how examples are made.
"""

from dataclasses import dataclass, field

from service.contract.types import PromptContext


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """What a person did, and the list they would most like to see.

    `queries` is empty where a list is asked for, not taught. `entity` is what it is about (the first, where there are
    several), `kind` and `facet` what is asked; all of them say where an example comes from and no model sees them.
    """

    task: str
    context: PromptContext
    queries: tuple[str, ...] = ()
    texts: dict[str, str] = field(default_factory=dict)
    entity: str = ""
    kind: str = ""
    facet: str = ""
