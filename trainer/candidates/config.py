"""How widely candidates are searched for.

It knows nothing about policies or predictors.
"""

import math
from dataclasses import dataclass

from service.contract.errors import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchConfig:
    """How widely to search.

    Attributes:
        beams: B of Algorithm 1, and N_c: so many chosen lists.
        expansions: M, next queries that are sampled for each beam.
        random_lists: R, random responses of which
        rejected: N_r, the lowest, are rejected.
        groups: of beams, for diverse beam search (GQR appendix C).
        diversity: what a group loses for terms that an earlier one chose, in units of the reward.
        near_duplicate: cosine from which two queries are the same; None looks for exact duplicates only (-RF).
        temperature, top_p: of the next queries; texts and random responses follow the policy's own decoding.
        beam_search: False chooses the best of random responses, for about as many generated tokens (-BS).
    """

    beams: int = 4
    expansions: int = 8
    random_lists: int = 16
    rejected: int = 4
    groups: int = 1
    diversity: float = 0.0
    near_duplicate: float | None = 0.9
    temperature: float = 1.0
    top_p: float = 0.95
    seed: int = 0
    beam_search: bool = True

    def lists_instead(self, n: int) -> int:
        """Whole lists of `n` queries that have as many queries as a beam search for one samples."""
        return math.ceil(self.expansions * (self.groups + self.beams * (n - 1)) / n)

    def __post_init__(self) -> None:
        """Refuse what cannot be searched.

        Raises:
            ConfigurationError: A number is out of bounds; the text says which.
        """
        if min(self.beams, self.expansions, self.rejected, self.groups) < 1:
            raise ConfigurationError(f"beams, expansions, rejected and groups must each be at least 1, in {self}.")
        if self.random_lists <= self.rejected:
            raise ConfigurationError(
                f"Of {self.random_lists} random lists the {self.rejected} lowest cannot be rejected: all would be. Raise "
                "random_lists above rejected."
            )
        if self.beams % self.groups:
            raise ConfigurationError(
                f"{self.beams} beams are no {self.groups} groups of one size. Take a number of beams that groups divides."
            )
        if self.diversity < 0 or self.temperature <= 0 or not 0 < self.top_p <= 1:
            raise ConfigurationError(
                f"diversity is {self.diversity}, temperature {self.temperature} and top_p {self.top_p}. The first must not "
                "be negative, the second be above 0, the third above 0 and at most 1."
            )
