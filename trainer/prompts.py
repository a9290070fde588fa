"""Prompts to align a policy on."""

from dataclasses import dataclass

from service.contract.types import PromptContext


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignmentPrompt:
    """A task and a context that were logged. `prompt_id`: stable hash of both."""

    prompt_id: str
    task: str
    context: PromptContext
