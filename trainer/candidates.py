"""Candidate lists of prompts."""

from dataclasses import dataclass

from trainer.prompts import AlignmentPrompt


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredList:
    """A list with its reward."""

    queries: tuple[str, ...]
    texts: dict[str, str]
    reward: float
    response: str
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """The lists of one prompt: chosen best first, rejected worst first."""

    prompt: AlignmentPrompt
    chosen: tuple[ScoredList, ...]
    rejected: tuple[ScoredList, ...]
