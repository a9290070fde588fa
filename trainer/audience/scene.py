"""A scene: what a person is doing, as a product sees it, and what such people may need next.

It knows nothing about lists and clicks.
"""

from dataclasses import dataclass

from service.contract.types import PromptContext


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a person wants next.

    `about` is the entity, or the subject of a piece of writing. `kind` and `facet` place it in the catalogue: a kind
    and its facet, a form of writing and a group of its snippets, an ambiguous word and its sense; both are empty for a
    real next query, of which only the words are known. `text` is how it is said, where only the words count.
    """

    about: str
    kind: str = ""
    facet: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What a person is doing. Of all who do it, a share `chances[i]` needs `needs[i]`; the shares sum to 1.

    `known` are the queries asked before, which nobody wants offered again.
    """

    task: str
    context: PromptContext
    needs: tuple[Need, ...]
    chances: tuple[float, ...]

    @property
    def known(self) -> tuple[str, ...]:
        """What was asked already."""
        history = tuple(event.text for event in self.context.history)
        return (*((self.context.query,) if self.context.query else ()), *self.context.session, *history)
