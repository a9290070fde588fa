"""The reward of a list: GQR eq. 3 where several queries may be clicked, eq. 4 where a click excludes the others.

It knows nothing about models. A beam search carries a `Reward` along, and adds one query a round.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Reward:
    """The reward of a list so far, exact. Eq. 3 keeps the sum of log(1 - p_k), eq. 4 the sum of p_k."""

    single_choice: bool
    total: float = 0.0

    def plus(self, p: float) -> "Reward":
        """The reward when a query with click probability `p` in [0, 1) stands next."""
        return Reward(self.single_choice, self.total + (p if self.single_choice else math.log1p(-p)))

    @property
    def value(self) -> float:
        """P(has click) by eq. 3, or the expected clicks by eq. 4."""
        return self.total if self.single_choice else -math.expm1(self.total)


def list_reward(p: Sequence[float] | NDArray[np.floating[Any]], single_choice: bool) -> float:
    """The reward of a whole list with click probabilities `p`, (N,): eq. 4 for `single_choice`, else eq. 3.

    Equation 3 is 1 - prod(1 - p_k), computed in logarithms so that small probabilities keep all their digits.
    """
    each = np.asarray(p, np.float64)
    return float(each.sum() if single_choice else -np.expm1(np.log1p(-each).sum()))


def aec(lists: Iterable[Sequence[float] | NDArray[np.floating[Any]]], single_choice: bool) -> float:
    """Average estimated CTR: mean list reward of one response for each prompt. GQR B.1.

    Inside eq. 9 the paper's AEC is over single rows instead: the mean of p, see `ctr.metrics.diff_ctr`.

    Args:
        lists: click probabilities of each response, one for each prompt; at least one.
        single_choice: of their task.
    """
    return float(np.mean([list_reward(p, single_choice) for p in lists]))
