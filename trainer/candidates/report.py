"""What a search for candidates did, in figures.

It knows nothing about how it is done.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchReport:
    """What a search did so far.

    Attributes:
        lists: chosen and rejected ones that were found.
        engine_busy_share: of the time searched, that with at least one engine request in flight.
        unreadable: samples without a whole query, or random responses that are not whole.
        without_texts: prompts whose random responses lack a set of texts, so that nothing could be chosen.
    """

    prompts: int
    lists: int
    seconds: float
    engine_busy_share: float
    requests: int
    samples: int
    generated_tokens: int
    unreadable: int
    exact_duplicates: int
    near_duplicates: int
    without_texts: int
    predictor_calls: int
    predictor_rows: int

    @property
    def lists_per_s(self) -> float:
        """Lists found in each second of the search."""
        return self.lists / self.seconds if self.seconds else 0.0
