"""Lists to prefer and lists to avoid, found by query-level beam search under a click predictor (GQR Algorithm 1)."""

from trainer.candidates.config import SearchConfig
from trainer.candidates.report import SearchReport
from trainer.candidates.scored_lists import Candidates, ScoredList, read_candidates
from trainer.candidates.search import CandidateSearch, identity_of

__all__ = [
    "CandidateSearch",
    "Candidates",
    "ScoredList",
    "SearchConfig",
    "SearchReport",
    "identity_of",
    "read_candidates",
]
